//! What a run is: the TOML tables, their defaults and presets, overrides, and the checks made before step 0.

mod continual;
mod load;
mod manual;
mod paths;
mod presets;
mod run;
mod schema;
mod settle;
mod train;
mod validate;
mod write;

pub use continual::{ContinualConfig, Method, Offline, Orthogonal, Stage, TaskConfig};
pub use manual::{KeyInfo, json_schema, key_meant, manual};
pub use presets::PRESETS;
pub use run::{RECORD, RunConfig};
pub use train::{OnSpike, TrainConfig};

use crate::data::{DataConfig, TokenizerSettings};
use crate::model::{
    ActivationConfig, AdapterConfig, AdapterUse, Execution, ModelConfig, OffloadConfig, ParamKind, Settings,
    StorageConfig, Trainable,
};
use crate::optim::{EmbeddingUpdate, LearningRate, OptimizerConfig};
use crate::ranks::RanksConfig;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A whole configuration; every table and key is optional in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The architecture.
    pub model: ModelConfig,
    /// The text.
    pub data: DataConfig,
    /// How text becomes tokens.
    pub tokenizer: TokenizerSettings,
    /// How weights and optimizer state are stored.
    pub storage: StorageConfig,
    /// How activations enter the packed products.
    pub activations: ActivationConfig,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// Steps, batch, schedule, cadences.
    pub train: TrainConfig,
    /// What is trained beside a frozen base.
    pub adapter: AdapterConfig,
    /// Tasks that are learned one after the other.
    pub continual: ContinualConfig,
    /// Where parameters live between their uses.
    pub offload: OffloadConfig,
    /// Several processes that train one model.
    pub ranks: RanksConfig,
    /// Where and how the run executes.
    pub run: RunConfig,
}

impl Config {
    /// The learning rate of each step.
    pub fn learning_rate(&self) -> LearningRate {
        let TrainConfig { warmup, steps, schedule, final_lr, .. } = self.train;
        LearningRate { peak: self.optimizer.lr, warmup, steps, schedule, final_lr, decay: self.train.decay() }
    }

    /// Sequences of a step that a rank has at most: all of them where there is one process.
    pub fn rank_batch(&self) -> usize {
        self.train.batch.div_ceil(self.run.ranks)
    }

    /// What text samples go on from.
    pub fn sample_text(&self) -> &str {
        let own = Some(self.train.sample_prompt.as_str()).filter(|prompt| !prompt.is_empty());
        self.data.opening.as_ref().map_or(own.unwrap_or("\n"), |opening| &opening.text)
    }

    /// What a model is placed and computed by.
    pub fn settings(&self) -> Settings {
        let online = self.adapter.is_some().then(|| AdapterUse::whole(self.adapter.clone()));
        let accumulates = self.continual.stage.is_some_and(|stage| stage.offline.is_some());
        let adapters = [online.clone(), online.filter(|_| accumulates).map(|online| online.offline())];
        Settings {
            model: self.model.clone(),
            storage: self.storage.clone(),
            activations: self.activations.clone(),
            optimizer: Some(Arc::new(self.optimizer.groups(self.storage.state()))),
            sparse_embedding: self.optimizer.embedding == EmbeddingUpdate::Sparse,
            packing: self.data.shares_rows,
            trainable: match self.adapter.is_some() {
                true => Trainable::Only(ParamKind::is_trained_adapter),
                false => Trainable::All,
            },
            adapters: adapters.into_iter().flatten().collect(),
            seed: self.run.seed,
            execution: Execution {
                micro_tokens: self.train.micro_batch().min(self.rank_batch()) * self.train.sequence,
                ranks: self.run.ranks,
                rank: None,
                checkpointing: self.run.activation_checkpointing,
                grad_buffer: self.run.grad_buffer,
                offload: self.offload,
                logits_mib: self.run.logits_mib,
                sampled: self.train.sampled(self.sample_text()),
            },
        }
    }
}
