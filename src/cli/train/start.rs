//! A run that starts from the weights of a model.

use crate::cli::Failure;
use std::path::Path;
use tetrad::checkpoint::{Checkpoint, TOKENIZER_CONFIG};
use tetrad::config::Config;
use tetrad::data::TokenizerConfig;
use tetrad::error::StoreError;
use tetrad::model::StorageConfig;
use tetrad::store::publish;
use xxhash_rust::xxh3::xxh3_64;

/// The model whose weights a run starts from.
pub struct InitFrom {
    /// Its verified file.
    pub checkpoint: Checkpoint,
}

impl InitFrom {
    /// Opens it.
    ///
    /// # Errors
    /// A file that is not a valid model.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let checkpoint = Checkpoint::open(path)?;
        checkpoint.verify()?;
        Ok(Self { checkpoint })
    }

    /// The base of the configuration: the model, how its weights are stored, and the quick-start for the rest.
    pub fn base(&self) -> Config {
        let (saved, plain) = (&self.checkpoint.config, Config::default());
        let storage = StorageConfig {
            residue: plain.storage.residue,
            feedback: plain.storage.feedback,
            m: plain.storage.m,
            v: plain.storage.v,
            ..saved.storage.clone()
        };
        let mut base = Config {
            model: saved.model.clone(),
            activations: saved.activations.clone(),
            tokenizer: saved.tokenizer.clone(),
            storage,
            ..plain
        };
        base.train.sequence = saved.train.sequence.min(saved.model.context);
        base
    }

    /// Writes the model's own tokenizer, with its special tokens and chat template, where the run reads them, unless
    /// another tokenizer was configured: next to the prepared tokens, under a name derived from the content, so that
    /// models cannot overwrite each other's.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn place_tokenizer(&self, config: &mut Config, dry: bool) -> Result<(), Failure> {
        let Some(json) = self.checkpoint.tokenizer() else { return Ok(()) };
        if config.tokenizer != self.checkpoint.config.tokenizer {
            return Ok(());
        }
        let companion = self.checkpoint.attachment(TOKENIZER_CONFIG).unwrap_or_default();
        let both = xxh3_64(&json) ^ if companion.is_empty() { 0 } else { xxh3_64(&companion).rotate_left(1) };
        let path = config.data.cache.join(format!("tokenizer-{both:016x}.json"));
        config.tokenizer.file = Some(path.clone());
        for (path, content) in [(TokenizerConfig::path(&path), companion), (path, json)] {
            if !dry && !content.is_empty() && !path.exists() {
                publish(&path, |out| out.write_all(&content)).map_err(|e| StoreError::io(&path, "write it", e))?;
            }
        }
        Ok(())
    }
}
