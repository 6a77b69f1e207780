//! Text to batches: tokenizers, corpora, prepared shards, windows and their order.
//!
//! Files are tokenized once into a memory-mapped shard ([`Shard::prepare`]); a run's tokens are split before anything
//! is trained ([`Prepared`]); what is trained at which step depends on the seed and the number of samples seen, and
//! on nothing else ([`Batches`]).

mod batches;
mod corpus;
mod decoder;
mod hashed;
mod permutation;
mod pieces;
mod prepare;
mod shard;
mod split;
mod tokenizer;
mod tokens;

pub use batches::{Batches, Windows};
pub use corpus::{Corpus, Input, InputKind};
pub use decoder::Decoder;
pub use prepare::{Progress, Stage};
pub use shard::{Shard, Source};
pub use split::Prepared;
pub use tokenizer::Tokenizer;
pub use tokens::Tokens;
