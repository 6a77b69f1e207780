//! Text to batches, in four rooms, each of which uses only those before it:
//!
//! | room | what lives there |
//! | --- | --- |
//! | [`source`] | files and the documents in them |
//! | [`tokenize`] | tokenizers, special tokens, chat templates, samples |
//! | [`shard`] | prepared token ids, memory-mapped |
//! | [`batch`] | rows, their order, training and validation batches |
//!
//! Files are tokenized once into a memory-mapped shard ([`Shard::prepare`]); a run's tokens are split before anything
//! is trained ([`Prepared`]); what is trained at which step depends on the seed and the number of rows seen, and on
//! nothing else ([`Batches`]). A row is a window of a text, or holds whole samples ([`Samples`]), of which only a part may
//! be learned ([`SampleFormat`]).

pub mod batch;
mod config;
mod opening;
mod prepared;
pub mod shard;
pub mod source;
pub mod tokenize;

pub use batch::{Batches, Dataset, Overlong, PackingStats, Samples, Source, SourceStats, Windows};
pub use config::{DataConfig, Packing, SourceConfig, TokenizerSettings};
pub use opening::{Opening, opening};
pub use prepared::{Prepared, Texts, prepare};
pub use shard::{IGNORE, InputTokens, Progress, Shard, Stage, Tokens};
pub use source::{Corpus, Input, InputKind};
pub use tokenize::{
    ChatPrompt, Decoder, END_OF_TEXT, Message, SampleFormat, SpecialTokens, Tokenizer, TokenizerConfig, is_template,
    least_vocabulary, train_byte_pairs,
};
