//! A run's training and validation tokens, ready and checked.

use super::prepare::Progress;
use super::{Corpus, Shard, Tokenizer, Tokens};
use crate::config::{self, Config};
use crate::error::DataError;

/// Everything a run reads.
#[derive(Clone)]
pub struct Prepared {
    /// How text became tokens.
    pub tokenizer: Tokenizer,
    /// What is trained on.
    pub train: Tokens,
    /// What is validated on, never trained on; empty if `data.validation_fraction` is 0 and no files are named.
    pub validation: Tokens,
    /// Bytes of text per validation token: nats per token divided by it (and by ln 2) are bits per byte. For a tail
    /// it is that of the text it was cut from.
    pub bytes_per_token: f64,
    /// Of the training tokens: a position in them means nothing in others.
    pub fingerprint: String,
}

impl Prepared {
    /// Resolves, tokenizes (or finds in the cache) and splits the text of a configuration, and checks every token
    /// against `model.vocab`.
    ///
    /// # Errors
    /// Every mistake in files, tokenizer and vocabulary; [`super::Batches::new`] and [`super::Windows::new`] refuse
    /// texts that are too short.
    pub fn new(config: &Config, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Self, DataError> {
        let tokenizer = Tokenizer::of(&config.tokenizer)?;
        tokenizer.check_vocabulary(config.model.vocab)?;
        let train = Corpus::resolve(&config.data.train)?;
        let validation = match config.data.validation.as_slice() {
            [] => None,
            patterns => Some(Corpus::resolve(patterns)?),
        };
        // Names are checked before any text is read: preparing may take hours.
        if let Some(validation) = &validation {
            train.check_disjoint(validation)?;
        }
        let mut prepare = |corpus: &Corpus| -> Result<Shard, DataError> {
            let shard = Shard::prepare(corpus, &tokenizer, &config.data.cache, progress)?;
            shard.check_vocabulary(corpus, config.model.vocab)?;
            Ok(shard)
        };
        let train = prepare(&train)?;
        let validation = validation.as_ref().map(prepare).transpose()?;
        let bytes_per_token = validation.as_ref().unwrap_or(&train).bytes_per_token();
        let key = train.key;
        let (train, validation) = match validation {
            Some(validation) => (train.tokens, validation.tokens),
            None => cut_tail(&train.tokens, config.data.validation_fraction),
        };
        let fingerprint = format!("{key:032x}-{}", train.len());
        Ok(Prepared { tokenizer, train, validation, bytes_per_token, fingerprint })
    }
}

impl Tokenizer {
    /// The tokenizer of a configuration.
    ///
    /// # Errors
    /// A file that cannot be read or is no usable tokenizer.
    pub fn of(config: &config::Tokenizer) -> Result<Self, DataError> {
        config.file.as_deref().map_or_else(|| Ok(Tokenizer::bytes()), Tokenizer::from_file)
    }
}

impl Shard {
    /// Bytes of text per token, 1 for bytes.
    pub fn bytes_per_token(&self) -> f64 {
        self.text_bytes as f64 / self.tokens.len().max(1) as f64
    }
}

/// The tokens without their last `fraction`, and that. Nothing in the tail is ever an input or a target of training.
pub(super) fn cut_tail(tokens: &Tokens, fraction: f64) -> (Tokens, Tokens) {
    let tail = (tokens.len() as f64 * fraction).round() as usize;
    let cut = tokens.len().saturating_sub(tail);
    (tokens.slice(0..cut), tokens.slice(cut..tokens.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_and_the_rest_share_no_token() {
        let tokens = Tokens::from_ids(&(0..1000).collect::<Vec<u32>>());
        let (train, tail) = cut_tail(&tokens, 0.05);
        assert_eq!((train.to_vec(), tail.to_vec()), ((0..950).collect(), (950..1000).collect()));
    }

    #[test]
    fn no_fraction_leaves_everything_to_training() {
        let tokens = Tokens::from_ids(&[1, 2, 3]);
        let (train, tail) = cut_tail(&tokens, 0.0);
        assert_eq!((train.len(), tail.len()), (3, 0));
        let (train, tail) = cut_tail(&Tokens::from_ids(&[]), 0.5);
        assert!(train.is_empty() && tail.is_empty());
    }
}
