//! The special tokens of a model in a file.

use super::Checkpoint;
use super::meta::{GENERATION_CONFIG, TOKENIZER_CONFIG};
use crate::data::{SpecialTokens, Tokenizer};

impl Checkpoint {
    /// The special tokens of the model: what its attached `tokenizer_config.json` and `generation_config.json` say, and
    /// the names that `tokenizer`, its own, gives them where they say nothing.
    pub fn special_tokens(&self, tokenizer: &Tokenizer) -> SpecialTokens {
        let object = |name: &str| self.attachment(name).and_then(|json| serde_json::from_slice(&json).ok());
        let told = object(TOKENIZER_CONFIG).unwrap_or_default();
        let generation = object(GENERATION_CONFIG).unwrap_or_default();
        SpecialTokens::read(tokenizer, &told, &generation)
    }
}
