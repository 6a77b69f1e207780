//! Text to batches: tokenizers, corpora, prepared shards, windows and their order.
//!
//! Files are tokenized once into a memory-mapped shard ([`Shard::prepare`]); a run's tokens are split before anything
//! is trained ([`Prepared`]); what is trained at which step depends on the seed and the number of rows seen, and on
//! nothing else ([`Batches`]). A row is a window of a text, or holds whole samples ([`Samples`]), of which only a part may
//! be learned ([`Recipe`]).

mod batches;
mod chat;
mod corpus;
mod decoder;
mod document;
mod documents;
mod hashed;
mod llm_c;
mod mixture;
mod packed;
#[cfg(feature = "parquet")]
mod parquet;
mod part;
mod permutation;
mod pieces;
mod prepare;
mod recipe;
mod shard;
mod split;
mod stream;
mod tokenizer;
mod tokens;
mod unzip;
mod windows;

pub use batches::{Batches, Share};
pub use chat::Companion;
pub use corpus::{Corpus, Input, InputKind};
pub use decoder::Decoder;
pub use packed::Packing;
pub use part::{Body, Part, Samples};
pub use prepare::{Progress, Stage};
pub use recipe::Recipe;
pub use shard::{Shard, Source};
pub use split::{Prepared, prepare, shares_rows};
pub use tokenizer::Tokenizer;
pub use tokens::Tokens;
pub use windows::Windows;

/// Slices of a batch fit together and hold whole rows.
fn check_shape(sequence: usize, inputs: &[u32], targets: &[u32], first: &[u32]) {
    assert_eq!(inputs.len(), targets.len(), "inputs and targets");
    assert!(first.is_empty() || first.len() == inputs.len(), "{} beginnings of {}", first.len(), inputs.len());
    assert!(inputs.len().is_multiple_of(sequence), "{} inputs in sequences of {sequence}", inputs.len());
}
