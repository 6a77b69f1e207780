//! What a checkpoint carries for a run whose files are gone: tokenizer and chat template.

use super::load::Checkpoint;
use super::meta::TOKENIZER_CONFIG;
use crate::config::{Config, RECORD};
use crate::data::{TokenizerConfig, is_template};
use crate::error::{CheckpointError, StoreError};
use crate::store::publish;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Stands in a configuration for the tokenizer that a file carries, until that is written where the run reads it.
pub const CARRIED: &str = "<the tokenizer in the model's file>";

/// The tokenizer that a checkpoint carries, as a file.
pub struct CarriedTokenizer {
    /// Next to the prepared tokens, under a name derived from the content, so that models cannot overwrite each other's.
    pub path: PathBuf,
    json: Vec<u8>,
    /// Special tokens and chat template; empty if there are none.
    companion: Vec<u8>,
}

impl CarriedTokenizer {
    /// The tokenizer in `checkpoint`, to be placed in `cache`; nothing for a model of bytes.
    pub fn of(checkpoint: &Checkpoint, cache: &Path) -> Option<Self> {
        let json = checkpoint.tokenizer()?;
        let companion = checkpoint.attachment(TOKENIZER_CONFIG).unwrap_or_default();
        let both = xxh3_64(&json) ^ if companion.is_empty() { 0 } else { xxh3_64(&companion).rotate_left(1) };
        Some(Self { path: cache.join(format!("tokenizer-{both:016x}.json")), json, companion })
    }

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

impl Checkpoint {
    /// Names in the configuration of a run that goes on what this checkpoint carries for files that are gone: its tokenizer,
    /// as a file in the cache, and its chat template. Texts that are not found from here are looked up in the record of the
    /// run in `run.dir`.
    ///
    /// # Errors
    /// If the cache cannot be written, or what is carried is damaged.
    pub fn complete(&self, config: &mut Config) -> Result<(), CheckpointError> {
        let record = config.run.dir.join(RECORD);
        if record.is_file()
            && let Some(Ok(record)) = record.to_str().map(|record| Config::load(Some(record), &[]))
        {
            config.look_up(record);
        }
        if let Some(file) = config.tokenizer.file.clone()
            && let Some(carried) = CarriedTokenizer::of(self, &config.data.cache)
            && (!file.is_file() || file == carried.path)
        {
            carried.write()?;
            config.tokenizer.file = Some(carried.path);
        }
        let gone = |template: &&String| !is_template(template) && !Path::new(template).exists();
        if config.data.chat_template.as_ref().filter(gone).is_some()
            && let Some(json) = self.attachment(TOKENIZER_CONFIG)
        {
            let unusable = |source| CheckpointError::Carried { path: self.path().into(), source: Box::new(source) };
            let carried = TokenizerConfig::parse(TOKENIZER_CONFIG, &json).map_err(unusable)?;
            if let Some(template) = carried.template() {
                config.data.chat_template = Some(template.into());
            }
        }
        Ok(())
    }
}
