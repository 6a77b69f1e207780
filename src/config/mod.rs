//! What a run is: the TOML tables, their defaults and presets, overrides, and the checks made before step 0.

mod data;
mod load;
mod presets;
mod run;
mod schema;
mod train;
mod validate;
mod write;

pub use data::{Data, Long, Samples, Source};
pub use presets::PRESETS;
pub use run::RunConfig;
pub use train::TrainConfig;

use crate::model::{ActivationConfig, Execution, ModelConfig, Settings, StorageConfig};
use crate::optim::{EmbeddingUpdate, LearningRate, OptimizerConfig};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A whole configuration; every table and key is optional in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The architecture.
    pub model: ModelConfig,
    /// The text.
    pub data: Data,
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// How weights and optimizer state are stored.
    pub storage: StorageConfig,
    /// How activations enter the packed products.
    pub activations: ActivationConfig,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// Steps, batch, schedule, cadences.
    pub train: TrainConfig,
    /// Where and how the run executes.
    pub run: RunConfig,
}

impl Config {
    /// The learning rate of each step.
    pub fn learning_rate(&self) -> LearningRate {
        let TrainConfig { warmup, steps, schedule, final_lr, .. } = self.train;
        LearningRate { peak: self.optimizer.lr, warmup, steps, schedule, final_lr }
    }

    /// What a model is placed and computed by.
    pub fn settings(&self) -> Settings {
        Settings {
            model: self.model.clone(),
            storage: self.storage.clone(),
            activations: self.activations.clone(),
            optimizer: Some(self.optimizer.clone()),
            sparse_embedding: self.optimizer.embedding == EmbeddingUpdate::Sparse,
            packed_rows: self.data.packed,
            seed: self.run.seed,
            execution: Execution {
                micro_tokens: self.train.micro_batch() * self.train.sequence,
                activations: self.run.activations,
                gradient: self.run.gradient,
                weights: self.run.weights,
                state: self.run.state,
                logits_mib: self.run.logits_mib,
            },
        }
    }
}

/// `[tokenizer]`: how text becomes tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tokenizer {
    /// A Hugging Face `tokenizer.json`; absent: one token per byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// For keys that older files do not have: they are written only where they say something, so that those files stay
/// readable and new ones stay the same.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
