//! A run that starts from the weights of a model.

use crate::cli::Failure;
use crate::cli::model_file::finished_model;
use std::path::Path;
use tetrad::checkpoint::{CARRIED, CarriedTokenizer, Checkpoint};
use tetrad::config::{Config, TrainConfig};
use tetrad::data::TokenizerSettings;
use tetrad::error::StoreError;
use tetrad::model::StorageConfig;

/// Stands in a configuration for the folder of a run that is named after its model and its text.
pub const UNNAMED: &str = "runs/<the model and the text>";

/// Epochs of fine-tuning, and the share of its steps in which the rate rises.
const EPOCHS: f64 = 3.0;
const WARMUP: f64 = 0.1;

/// The model whose weights a run starts from.
pub struct InitFrom {
    /// Its verified file.
    pub checkpoint: Checkpoint,
}

impl InitFrom {
    /// Opens it: a file, or the finished weights in the folder of a run.
    ///
    /// # Errors
    /// A file that is not a valid model.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let checkpoint = Checkpoint::open(&finished_model(path))?;
        checkpoint.verify()?;
        Ok(Self { checkpoint })
    }

    /// The base of the configuration: the model, how its weights are stored, and what is usual for fine-tuning.
    pub fn base(&self) -> Config {
        let (saved, plain) = (&self.checkpoint.meta, Config::default());
        let storage = StorageConfig {
            residue: plain.storage.residue,
            feedback: plain.storage.feedback,
            m: plain.storage.m,
            v: plain.storage.v,
            ..saved.storage.clone()
        };
        Config {
            model: saved.model.clone(),
            activations: saved.activations.clone(),
            tokenizer: self.tokenizer(),
            storage,
            ..tuning()
        }
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
        let Some(carried) = CarriedTokenizer::of(&self.checkpoint, &config.data.cache) else { return Ok(()) };
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

/// The quick-start, with what is usual for fine-tuning: a low rate, three epochs, and rows and batches that follow from the
/// text.
pub fn tuning() -> Config {
    let mut config = Config::default();
    config.optimizer = config.optimizer.for_tuning();
    config.train = TrainConfig {
        steps: 0,
        epochs: EPOCHS,
        batch: 0,
        sequence: 0,
        warmup: 0,
        warmup_share: WARMUP,
        // Asked is what the data ask.
        sample_prompt: String::new(),
        ..config.train
    };
    config.run.dir = UNNAMED.into();
    config
}

/// Names the folder of a run after the model that it starts from and the text that it reads.
pub fn name_folder(config: &mut Config, model: &Path) {
    if config.run.dir != Path::new(UNNAMED) {
        return;
    }
    let sources = config.data.source.iter().flat_map(|source| &source.files);
    let text = config.data.train.iter().chain(sources).next();
    // A run's own files are called alike in every run.
    let of_run = |name: &str| ["model", "best"].contains(&name) || name.starts_with("step-");
    let folder = model.parent().map(plain_name).unwrap_or_default();
    let model = match plain_name(model) {
        name if of_run(&name) && !folder.is_empty() => folder,
        name => name,
    };
    let text = text.map_or_else(String::new, |text| match Path::new(text) {
        path if plain_name(path).is_empty() => path.parent().map(plain_name).unwrap_or_default(),
        path => plain_name(path),
    });
    let text = if text.is_empty() { "tuned" } else { &text };
    config.run.dir = Path::new("runs").join(format!("{model}-{text}"));
}

/// The last part of a path without endings and wildcards.
fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').find(|part| !part.is_empty()).unwrap_or_default();
    stem.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_after_its_model_and_its_text() {
        let named = |model: &str, texts: &[&str]| {
            let mut config = tuning();
            config.data.train = texts.iter().map(|&text| text.into()).collect();
            name_folder(&mut config, Path::new(model));
            config.run.dir.to_string_lossy().into_owned()
        };
        assert_eq!(named("smol.tetrad", &["pirate.jsonl.zst"]), "runs/smol-pirate");
        assert_eq!(named("runs/first/model.tetrad", &["books/*.txt", "b.txt"]), "runs/first-books");
        assert_eq!(named("a/SmolLM2-135M.tetrad", &[]), "runs/SmolLM2-135M-tuned");
        let mut config = tuning();
        config.run.dir = "mine".into();
        name_folder(&mut config, Path::new("smol.tetrad"));
        assert_eq!(config.run.dir, Path::new("mine"));
    }
}
