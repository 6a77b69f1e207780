//! What a file says about its model: enough to evaluate, sample, and go on training.

use crate::config::{Activations, Config, Model, Optimizer, Storage, Train};
use crate::train::Counters;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The metadata of a file. It holds nothing that differs between two runs that compute the same: no time, no path,
/// no number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Program and version that wrote the file.
    pub tool: String,
    /// Architecture.
    pub model: Model,
    /// How weights and state are stored.
    pub storage: Storage,
    /// How activations enter the products.
    pub activations: Activations,
    /// The rule of the state in the file.
    pub optimizer: Optimizer,
    /// Schedule and batch of the run.
    pub train: Train,
    /// Seed of the run.
    pub seed: u64,
    /// `"bytes"`, or `"tokenizer.json"`: the attachment of that name.
    pub tokenizer: String,
    /// Fingerprint of the training tokens; the position below refers to them.
    pub data: String,
    /// Progress.
    pub counters: Counters,
}

/// What [`Meta::tokenizer`] says of a file that carries its tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";

impl Meta {
    /// The metadata of a state.
    pub fn new(config: &Config, counters: Counters, has_tokenizer: bool, data: &str) -> Self {
        Self {
            tool: concat!("tetrad ", env!("CARGO_PKG_VERSION")).into(),
            model: config.model.clone(),
            storage: config.storage.clone(),
            activations: config.activations.clone(),
            optimizer: config.optimizer.clone(),
            train: config.train.clone(),
            seed: config.run.seed,
            tokenizer: if has_tokenizer { TOKENIZER.into() } else { "bytes".into() },
            data: data.into(),
            counters,
        }
    }

    /// As the file holds it.
    pub fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            other => unreachable!("a struct of plain values is an object, not {other:?}"),
        }
    }

    /// The inverse.
    ///
    /// # Errors
    /// What is missing or of another type.
    pub fn from_map(map: &Map<String, Value>) -> Result<Self, serde_json::Error> {
        serde_json::from_value(Value::Object(map.clone()))
    }

    /// The configuration that it describes; what it does not say has its default.
    pub fn config(&self) -> Config {
        let mut config = Config {
            model: self.model.clone(),
            storage: self.storage.clone(),
            activations: self.activations.clone(),
            optimizer: self.optimizer.clone(),
            train: self.train.clone(),
            ..Config::default()
        };
        config.run.seed = self.seed;
        config
    }
}
