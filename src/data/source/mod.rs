//! Files of text as documents: which files, how each is read, and what one document is.

mod corpus;
mod document;
mod hashing_reader;
mod jsonl;
pub(crate) mod llm_c;
#[cfg(feature = "parquet")]
mod parquet;
mod zstd;

pub use corpus::{Corpus, Input, InputKind};
pub(crate) use document::Document;
pub(crate) use hashing_reader::{Content, HashingReader, TextReader};
pub(crate) use jsonl::Documents;
