//! The metadata of a file: enough to evaluate, sample and resume its model.

use crate::config::{Config, Stage, TrainConfig};
use crate::error::ConfigError;
use crate::format::{Fingerprint, cap};
use crate::model::{
    ActivationConfig, AdapterConfig, AdapterUse, Execution, ModelConfig, ParamKind, Settings, StorageConfig, Trainable,
};
use crate::optim::{EmbeddingUpdate, OptimizerConfig};
use crate::train::{Counters, Watch};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The metadata of a file. It holds nothing that differs between two runs that compute the same: no time, no path,
/// no number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Program and version that wrote the file.
    pub tool: String,
    /// Architecture.
    pub model: ModelConfig,
    /// How weights and state are stored.
    pub storage: StorageConfig,
    /// How activations enter the products.
    pub activations: ActivationConfig,
    /// The rule of the state in the file, as it stands there: only resuming needs to know it.
    pub optimizer: Value,
    /// Schedule and batch of the run.
    pub train: TrainConfig,
    /// Seed of the run.
    pub seed: u64,
    /// `"bytes"`, or `"tokenizer.json"`: the attachment of that name; of an adapter `"base"`: its base says it.
    pub tokenizer: String,
    /// Fingerprint of the training tokens; the position below refers to them.
    pub data: String,
    /// Progress.
    pub counters: Counters,
    /// Of an adapter: what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterConfig>,
    /// Of an adapter: the model that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseModel>,
    /// Of an adapter that learns tasks one after the other: which it is at, and its offline module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continual: Option<Stage>,
    /// What the watchdog has seen, of a run that has one.
    #[serde(default, skip_serializing_if = "Watch::is_empty")]
    pub watch: Watch,
}

/// The model that an adapter was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseModel {
    /// [`Fingerprint`] of its weights, in sixteen hexadecimal digits.
    pub fingerprint: String,
}

/// What [`Meta::tokenizer`] says of a file that carries its tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";

/// The attachment with special tokens and chat template, where a model came with one: Hugging Face's file.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The attachment that says at which tokens a text ends (`eos_token_id`, one or a list), where a model came with it.
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// The same of a file whose tokens are bytes.
const BYTES: &str = "bytes";

/// The same of an adapter, whose base has the tokenizer.
pub(super) const OF_BASE: &str = "base";

/// Sequences of a step at most: the limit of `train.batch`.
const MOST_BATCH: u64 = 1 << 20;

impl Meta {
    /// The metadata of a state.
    pub fn new(config: &Config, counters: Counters, has_tokenizer: bool, data: &str) -> Self {
        Self {
            tool: concat!("tetrad ", env!("CARGO_PKG_VERSION")).into(),
            model: config.model.clone(),
            storage: config.storage.clone(),
            activations: config.activations.clone(),
            optimizer: serde_json::to_value(&config.optimizer).expect("a table of plain values"),
            // A choice of the machine's, which changes nothing that is saved.
            train: TrainConfig { micro_batch: 0, ..config.train.clone() },
            seed: config.run.seed,
            tokenizer: match has_tokenizer {
                _ if config.adapter.is_some() => OF_BASE.into(),
                true => TOKENIZER.into(),
                false => BYTES.into(),
            },
            data: data.into(),
            counters,
            adapter: config.adapter.is_some().then(|| AdapterConfig { base: None, ..config.adapter.clone() }),
            base: None,
            continual: config.continual.stage,
            watch: Watch::default(),
        }
    }

    /// The same of an adapter of this base; nothing where it has none.
    pub fn with_base(self, base: Option<Fingerprint>) -> Self {
        Self { base: base.map(|base| BaseModel { fingerprint: base.to_string() }), ..self }
    }

    /// The same of a run with a watchdog.
    pub fn with_watch(self, watch: &Watch) -> Self {
        Self { watch: watch.clone(), ..self }
    }

    /// As the file holds it.
    pub fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => reword(map, |[word, in_file]| (word, in_file)),
            other => unreachable!("a struct of plain values is an object, not {other:?}"),
        }
    }

    /// The inverse. Every key of the tables that say how to compute with the weights must be there: in a
    /// configuration an absent key means the quick-start's value, which of a file would be a guess.
    ///
    /// # Errors
    /// What is missing or of another type.
    pub fn from_map(map: &Map<String, Value>) -> Result<Self, String> {
        let mut plain = Self::new(&Config::default(), Counters::default(), false, "").to_map();
        if map.contains_key("adapter") {
            let adapter = serde_json::to_value(AdapterConfig::default()).expect("a table of plain values");
            plain.insert("adapter".into(), adapter);
        }
        for table in ["model", "storage", "activations", "adapter"] {
            let (Some(keys), Some(found)) =
                (plain.get(table).and_then(Value::as_object), map.get(table).and_then(Value::as_object))
            else {
                continue; // named below
            };
            if let Some(key) = keys.keys().find(|key| !found.contains_key(*key)) {
                return Err(format!("{table}.{key} is missing"));
            }
        }
        read(map.clone()).map_err(|error| invalid_key(map, &plain).unwrap_or(error))
    }

    /// Whether a file with this metadata holds a parameter: an adapter's file only its own tensors.
    pub fn holds(&self, kind: ParamKind) -> bool {
        match self.adapter {
            None => !kind.is_adapter(),
            Some(_) => kind.is_trained_adapter() || kind.is_adapter() && self.has_offline(),
        }
    }

    /// Whether it is of an adapter with an offline module.
    pub fn has_offline(&self) -> bool {
        self.continual.is_some_and(|stage| stage.offline.is_some())
    }

    /// The rule of the state in the file; options of a later version are left out.
    ///
    /// # Errors
    /// If this version does not know the rule or a value of it.
    pub fn optimizer(&self) -> Result<OptimizerConfig, String> {
        OptimizerConfig::deserialize(&self.optimizer).map_err(|error| format!("optimizer: {error}"))
    }

    /// Whether tokenizer and counters can be true; `attached`: whether the file carries a tokenizer.
    ///
    /// # Errors
    /// What cannot be, with the numbers.
    pub fn check(&self, attached: bool) -> Result<(), String> {
        match (self.tokenizer.as_str(), attached) {
            (OF_BASE, false) if self.adapter.is_some() => {}
            (_, _) if self.adapter.is_some() => {
                return Err(format!("tokenizer is {:?}, and an adapter has its base's", self.tokenizer));
            }
            (BYTES, false) | (TOKENIZER, true) => {}
            (BYTES, true) => return Err(format!("{TOKENIZER} is attached, but the text is said to be bytes")),
            (TOKENIZER, false) => {
                return Err(format!("the tokenizer is said to be attached as {TOKENIZER}, but is not"));
            }
            (other, _) => return Err(format!("tokenizer is {other:?}, {BYTES:?} and {TOKENIZER:?} exist")),
        }
        let Counters { step, position, skipped_losses, skipped_gradients, nonfinite_in_a_row, clipped_steps } =
            self.counters;
        let steps = step.min(cap::STEP);
        let limits = [
            ("step", step, cap::STEP),
            ("position", position, (steps + self.watch.left_out() as u64).saturating_mul(MOST_BATCH).min(cap::STEP)),
            ("skipped_losses", skipped_losses, steps),
            ("skipped_gradients", skipped_gradients, steps.saturating_mul(cap::TENSORS.into()).min(cap::STEP)),
            ("nonfinite_in_a_row", nonfinite_in_a_row, steps),
            ("clipped_steps", clipped_steps, steps),
        ];
        if let Some(problem) = self.watch.problem() {
            return Err(problem);
        }
        if let Some(stage) = &self.continual {
            if self.adapter.is_none() {
                return Err("continual is described, but no adapter".into());
            }
            if let Some(problem) = stage.problem(self.train.steps) {
                return Err(problem);
            }
        }
        match (&self.adapter, &self.base) {
            (None, None) => {}
            (Some(adapter), Some(base)) => {
                if !adapter.is_some() {
                    return Err("adapter.kind is \"none\"".into());
                }
                if base.fingerprint.parse::<Fingerprint>().is_err() {
                    return Err(format!("base.fingerprint is {:?}, not sixteen hexadecimal digits", base.fingerprint));
                }
            }
            (Some(_), None) => return Err("an adapter is described, but no base".into()),
            (None, Some(_)) => return Err("a base is named, but no adapter is described".into()),
        }
        match limits.into_iter().find(|(_, found, most)| found > most) {
            None => Ok(()),
            Some((name, found, most)) => Err(format!("counters.{name} is {found}, at most {most} is possible")),
        }
    }

    /// Checks the values of the tables.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every mistake.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let tied = self.model.tied;
        let mut problems = self.model.problems();
        // One token per byte; a tokenizer may have fewer tokens.
        let reason = "must be at least 256, since every byte is a token";
        let bytes = self.tokenizer == BYTES;
        problems.need(!bytes || self.model.vocab >= 256, "model.vocab", self.model.vocab, reason);
        let reason = format_args!("must be at most {}, the largest whole number of TOML", i64::MAX);
        problems.need(i64::try_from(self.seed).is_ok(), "seed", self.seed, reason);
        let reason = "must be 1 or more, like steps and sequence: a file is of a run whose shape is known";
        problems.need(!self.train.is_open(), "train.batch", self.train.batch, reason);
        for more in
            [self.storage.problems(tied), self.activations.problems(&self.storage), self.train.problems(&self.model)]
        {
            problems.0.extend(more.0);
        }
        // A shape that is none has no sites.
        if let Some(adapter) = self.adapter.as_ref().filter(|_| problems.0.is_empty()) {
            problems.0.extend(adapter.problems(&self.model).0);
        }
        // A rule that is not known is of no concern here.
        if let Ok(optimizer) = self.optimizer() {
            problems.0.extend(optimizer.problems(&self.storage.optimizer_context(&self.model)).0);
        }
        if problems.0.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems.0)) }
    }

    /// Whether the file carries its tokenizer; without one every byte is a token.
    pub fn has_tokenizer(&self) -> bool {
        self.tokenizer == TOKENIZER
    }

    /// What the model is placed and computed by, with the optimizer state that the file has if its rule is known.
    pub fn settings(&self) -> Settings {
        let optimizer = self.optimizer().ok();
        let online = self.adapter.clone().map(AdapterUse::whole);
        let adapters = [online.clone(), online.filter(|_| self.has_offline()).map(|online| online.offline())];
        Settings {
            model: self.model.clone(),
            storage: self.storage.clone(),
            activations: self.activations.clone(),
            optimizer: optimizer.as_ref().map(|optimizer| Arc::new(optimizer.groups(self.storage.state()))),
            sparse_embedding: optimizer.is_some_and(|optimizer| optimizer.embedding == EmbeddingUpdate::Sparse),
            packing: false,
            trainable: match self.adapter {
                Some(_) => Trainable::Only(ParamKind::is_trained_adapter),
                None => Trainable::All,
            },
            adapters: adapters.into_iter().flatten().collect(),
            seed: self.seed,
            execution: Execution::default(),
        }
    }
}

fn read(map: Map<String, Value>) -> Result<Meta, String> {
    let map = reword(map, |[word, in_file]| (in_file, word));
    serde_json::from_value(Value::Object(map)).map_err(|e| e.to_string())
}

/// Words of a configuration that are others in a file: those of version 0.1 mean there what they meant then, groups
/// that begin anew in each row.
const REWORDED: [(&str, &str, [[&str; 2]; 2]); 2] = [
    ("storage", "weights", [["int4-simulated", "int4-simulated-flat"], ["int4-simulated-rows", "int4-simulated"]]),
    ("activations", "quant", [["int4", "int4-flat"], ["int4-rows", "int4"]]),
];

/// Replaces the words of one side by those of the other; `sides` gives of a pair what is looked for and what replaces it.
fn reword(
    mut map: Map<String, Value>,
    sides: impl Fn([&'static str; 2]) -> (&'static str, &'static str),
) -> Map<String, Value> {
    for (table, key, pairs) in REWORDED {
        if let Some(Value::String(word)) = map.get_mut(table).and_then(|table| table.get_mut(key))
            && let Some((_, other)) = pairs.map(&sides).into_iter().find(|(from, _)| from == word)
        {
            *word = other.into();
        }
    }
    map
}

/// The path and error of the first value of `map` that makes the valid metadata `plain` invalid: serde names no path.
fn invalid_key(map: &Map<String, Value>, plain: &Map<String, Value>) -> Option<String> {
    for (name, value) in map {
        let mut probe = plain.clone();
        if let (Some(Value::Object(table)), Value::Object(found)) = (plain.get(name), value) {
            for (key, value) in found {
                let mut table = table.clone();
                table.insert(key.clone(), value.clone());
                probe.insert(name.clone(), table.into());
                if let Err(error) = read(probe.clone()) {
                    return Some(format!("{name}.{key}: {error}"));
                }
            }
        }
        probe.insert(name.clone(), value.clone());
        if let Err(error) = read(probe) {
            return Some(format!("{name}: {error}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ActivationQuant, Weights};

    #[test]
    fn words_of_a_configuration_come_back_from_a_file_and_those_of_version_0_1_mean_what_they_did() {
        let written = |weights, quant| {
            let mut config = Config::default();
            (config.storage.weights, config.activations.quant) = (weights, quant);
            let meta = Meta::new(&config, Counters::default(), false, "");
            let map = meta.to_map();
            assert_eq!(Meta::from_map(&map), Ok(meta));
            [&map["storage"]["weights"], &map["activations"]["quant"]].map(|word| word.as_str().unwrap().to_owned())
        };
        assert_eq!(written(Weights::Int4SimulatedRows, ActivationQuant::Int4Rows), ["int4-simulated", "int4"]);
        assert_eq!(written(Weights::Int4Simulated, ActivationQuant::Int4), ["int4-simulated-flat", "int4-flat"]);
        assert_eq!(written(Weights::Fp4Simulated, ActivationQuant::Fp4), ["fp4-simulated", "fp4"]);
        assert_eq!(written(Weights::Int4, ActivationQuant::None), ["int4", "none"]);
    }
}
