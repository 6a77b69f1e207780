//! Documents as token ids, and ids as text: tokenizers, special tokens, chat templates, and which tokens are learned.

mod byte_pairs;
mod chat_prompt;
mod chat_template;
mod chunker;
pub(crate) mod merges;
mod protobuf;
mod python_json;
mod python_methods;
mod rendering;
mod sample_encoder;
mod sentence_piece;
mod special_tokens;
mod stream_decoder;
mod template_environment;
mod tokenizer;
mod tokenizer_config;
pub(crate) mod words;

pub use byte_pairs::{END_OF_TEXT, least_vocabulary, train_byte_pairs};
pub use chat_prompt::{ChatPrompt, Message};
pub(crate) use chunker::{Chunk, Chunks};
pub use sample_encoder::SampleFormat;
pub(crate) use sample_encoder::{Refused, SampleEncoder};
pub(crate) use sentence_piece::read as read_sentence_piece;
pub use special_tokens::SpecialTokens;
pub use stream_decoder::Decoder;
pub use tokenizer::Tokenizer;
pub use tokenizer_config::{TokenizerConfig, is_template};
