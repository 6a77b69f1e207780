//! A run that starts from the weights of a model.

use crate::cli::Failure;
use std::path::{Path, PathBuf};
use tetrad::checkpoint::{Checkpoint, TOKENIZER_CONFIG};
use tetrad::config::Config;
use tetrad::data::{TokenizerConfig, TokenizerSettings};
use tetrad::error::StoreError;
use tetrad::model::StorageConfig;
use tetrad::store::publish;
use xxhash_rust::xxh3::xxh3_64;

/// Stands in a configuration for the tokenizer that a file carries, until that is written where the run reads it.
pub const CARRIED: &str = "<the tokenizer in the model's file>";

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
        let (saved, plain) = (&self.checkpoint.meta, Config::default());
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
            tokenizer: self.tokenizer(),
            storage,
            ..plain
        };
        base.train.sequence = saved.train.sequence.min(saved.model.context);
        base
    }

    /// The settings that stand for the model's own tokenizer until [`InitFrom::place_tokenizer`] has written it.
    fn tokenizer(&self) -> TokenizerSettings {
        TokenizerSettings { file: self.checkpoint.meta.has_tokenizer().then(|| CARRIED.into()) }
    }

    /// Writes the model's own tokenizer, with its special tokens and chat template, where the run reads them, unless
    /// another tokenizer was configured.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn place_tokenizer(&self, config: &mut Config, dry: bool) -> Result<(), StoreError> {
        let Some(carried) = carried_tokenizer(&self.checkpoint, &config.data.cache) else { return Ok(()) };
        // One that was placed before and is gone is placed again.
        let gone = config.tokenizer.file.as_ref().is_some_and(|file| *file == carried.path && !file.is_file());
        if config.tokenizer != self.tokenizer() && !gone {
            return Ok(());
        }
        if !dry {
            carried.write()?;
        }
        config.tokenizer.file = Some(carried.path);
        Ok(())
    }
}

/// The tokenizer that a checkpoint carries, as a file.
pub struct CarriedTokenizer {
    /// Next to the prepared tokens, under a name derived from the content, so that models cannot overwrite each other's.
    pub path: PathBuf,
    json: Vec<u8>,
    /// Special tokens and chat template; empty if there are none.
    companion: Vec<u8>,
}

/// The tokenizer in `checkpoint`, to be placed in `cache`; nothing for a model of bytes.
pub fn carried_tokenizer(checkpoint: &Checkpoint, cache: &Path) -> Option<CarriedTokenizer> {
    let json = checkpoint.tokenizer()?;
    let companion = checkpoint.attachment(TOKENIZER_CONFIG).unwrap_or_default();
    let both = xxh3_64(&json) ^ if companion.is_empty() { 0 } else { xxh3_64(&companion).rotate_left(1) };
    Some(CarriedTokenizer { path: cache.join(format!("tokenizer-{both:016x}.json")), json, companion })
}

impl CarriedTokenizer {
    /// Writes what is not there yet.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self) -> Result<(), StoreError> {
        for (path, content) in [(TokenizerConfig::path(&self.path), &self.companion), (self.path.clone(), &self.json)] {
            if !content.is_empty() && !path.exists() {
                publish(&path, |out| out.write_all(content)).map_err(|e| StoreError::io(&path, "write it", e))?;
            }
        }
        Ok(())
    }
}
