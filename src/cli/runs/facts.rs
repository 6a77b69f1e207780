//! What a run was configured to be, as far as runs are compared by it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use tetrad::backend::cpu::Cpu;
use tetrad::config::{Config, RunConfig, TrainConfig};
use tetrad::model::OffloadConfig;
use xxhash_rust::xxh3::xxh3_64;

/// Facts of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Fingerprint of all that decides a run's losses.
    #[serde(default)]
    pub configuration: String,
    /// Seed.
    pub seed: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Tokens of a step.
    pub tokens_per_step: u64,
    /// Peak learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Parameters other than embedding and head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Bytes that training keeps of each weight of a block's matrix: the weight, its residue and its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_weight: Option<f64>,
}

impl Facts {
    /// Those of a configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let tables = if config.model.tied { 1 } else { 2 } * config.model.vocab as u64 * config.model.hidden as u64;
        Self {
            configuration: fingerprint(config),
            seed: config.run.seed,
            steps: config.train.steps,
            tokens_per_step: (config.train.batch * config.train.sequence) as u64,
            lr: Some(config.optimizer.lr),
            parameters: Some(config.model.parameters().saturating_sub(tables)),
            bytes_per_weight: Some(bytes_per_weight(config)),
        }
    }

    /// What a configuration of another version tells, key by key.
    pub(crate) fn of_keys(keys: &BTreeMap<String, String>) -> Self {
        let number = |key: &str| keys.get(key).and_then(|value| value.parse::<f64>().ok());
        let whole = |key: &str| number(key).unwrap_or(0.0) as u64;
        Self {
            seed: whole("run.seed"),
            steps: whole("train.steps"),
            tokens_per_step: whole("train.batch") * whole("train.sequence"),
            lr: number("optimizer.lr"),
            ..Self::default()
        }
    }

    /// Training tokens for each parameter other than embedding and head.
    pub(crate) fn tokens_per_parameter(&self) -> Option<f64> {
        Some((self.steps * self.tokens_per_step) as f64 / self.parameters? as f64)
    }
}

/// Fingerprint of a configuration without what changes no loss: where and on what a run executes, its cadences, and the
/// folders of its texts, so that records of another machine count.
pub(crate) fn fingerprint(config: &Config) -> String {
    let plain = TrainConfig::default();
    let mut config = config.clone();
    config.run = RunConfig { seed: config.run.seed, logits_mib: config.run.logits_mib, ..RunConfig::default() };
    config.offload = OffloadConfig::default();
    config.data.cache = Config::default().data.cache;
    let sources = config.data.source.iter_mut().flat_map(|source| source.files.iter_mut());
    for file in config.data.train.iter_mut().chain(config.data.validation.iter_mut()).chain(sources) {
        *file = name(Path::new(&file));
    }
    for file in config.tokenizer.file.iter_mut().chain(&mut config.adapter.base) {
        *file = name(file).into();
    }
    config.train = TrainConfig {
        micro_batch: plain.micro_batch,
        checkpoint_every: plain.checkpoint_every,
        keep: plain.keep,
        milestone_every: plain.milestone_every,
        sample_every: plain.sample_every,
        sample_prompt: plain.sample_prompt,
        sample_tokens: plain.sample_tokens,
        audit_every: plain.audit_every,
        max_unmoved: plain.max_unmoved,
        max_nonfinite: plain.max_nonfinite,
        ..config.train
    };
    format!("{:016x}", xxh3_64(config.to_toml().as_bytes()))
}

/// The same of a run that starts from weights with a fingerprint of their own.
pub(crate) fn fingerprint_from(configuration: String, start: Option<&str>) -> String {
    match start {
        Some(start) => format!("{:016x}", xxh3_64(format!("{configuration} {start}").as_bytes())),
        None => configuration,
    }
}

/// The last part of a path.
fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Of the matrices of the blocks, from the plan.
fn bytes_per_weight(config: &Config) -> f64 {
    let (_, model) = tetrad::train::plan(&tetrad::train::fastest(config, &Cpu::new()), &Cpu::new());
    let matrices = model.specs.iter().zip(&model.stored);
    let matrices = matrices.filter(|(spec, _)| spec.kind.block().is_some() && !spec.kind.is_vector());
    let (mut bytes, mut weights) = (0, 0);
    for (_, param) in matrices {
        let planes = param.weight.planes().into_iter().chain(param.state.planes());
        bytes += planes.map(|span| span.bytes).sum::<usize>();
        weights += param.weight.shape.len();
    }
    bytes as f64 / weights as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrad::backend::{Moment, SecondMoment};
    use tetrad::model::Weights;

    #[test]
    fn a_fingerprint_tells_what_decides_the_losses_and_nothing_else() {
        let config = Config::default();
        let same = |edit: &dyn Fn(&mut Config)| {
            let mut other = config.clone();
            edit(&mut other);
            fingerprint(&other) == fingerprint(&config)
        };
        assert!(same(&|c| (c.run.dir, c.run.threads, c.train.keep) = ("elsewhere".into(), 3, 9)));
        assert!(same(&|c| (c.train.micro_batch, c.data.cache) = (4, "other".into())));
        assert!(!same(&|c| c.run.seed = 2) && !same(&|c| c.train.eval_sequences = 5));
        assert!(!same(&|c| c.optimizer.lr = 1e-3) && !same(&|c| c.data.train = vec!["a.txt".into()]));
        let texts = |path: &str| {
            let mut config = config.clone();
            (config.data.train, config.tokenizer.file) = (vec![path.into()], Some(path.into()));
            fingerprint(&config)
        };
        assert_eq!(texts("/a/b/*.txt"), texts("b/*.txt"));
        assert_ne!(texts("/a/b.txt"), texts("/a/c.txt"));
    }

    #[test]
    fn bytes_of_a_weight_are_those_of_its_planes() {
        let mut config = Config::default();
        let near = |config: &Config, bytes: f64| {
            let found = Facts::of(config).bytes_per_weight.unwrap();
            assert!((found - bytes).abs() < 0.03 * bytes, "{found} bytes, about {bytes} expected");
        };
        // Code and residue, m and v in half a byte each, and a scale of two bytes for 64 of them, three times; rows of
        // 344 are padded to 384.
        near(&config, 2.0 * 1.04 + 6.0 / 64.0);
        config.storage.v = SecondMoment::Factored;
        near(&config, 1.5 * 1.04 + 4.0 / 64.0 + 0.03);
        config.storage.weights = Weights::F32;
        (config.storage.m, config.storage.v) = (Moment::F32, SecondMoment::F32);
        near(&config, 12.0);
        let facts = Facts::of(&config);
        assert_eq!((facts.parameters, facts.tokens_per_step), (Some(857_216 - 2 * 256 * 128), 2048));
        assert!((facts.tokens_per_parameter().unwrap() - 400.0 * 2048.0 / 791_680.0).abs() < 1e-9);
    }

    #[test]
    fn keys_of_an_older_version_still_tell_the_rate() {
        let keys =
            [("optimizer.lr", "0.002"), ("run.seed", "4"), ("train.steps", "100"), ("run.gradient", "\"layer\"")];
        let keys = keys.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        let facts = Facts::of_keys(&keys);
        assert_eq!((facts.lr, facts.seed, facts.steps, facts.parameters), (Some(0.002), 4, 100, None));
    }
}
