//! Files of text as documents: which files, how each is read, and what one document is.

mod array;
mod conversation;
mod corpus;
mod csv;
mod document;
mod hashing_reader;
mod json;
mod jsonl;
pub(crate) mod llm_c;
#[cfg(feature = "parquet")]
mod parquet;
mod zstd;

pub(crate) use conversation::Conversation;
pub use corpus::{Corpus, Input, InputKind};
pub(crate) use document::Document;
pub(crate) use hashing_reader::{BYTE_ORDER_MARK, Content, HashingReader, TextReader};
pub(crate) use json::Json;
pub(crate) use jsonl::Documents;
