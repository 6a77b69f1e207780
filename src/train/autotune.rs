//! Picks what a configuration leaves open so that its plan fits into memory: micro-batches, activation checkpointing, the
//! gradient buffer and offloading. On a CPU none of it changes a result, on a GPU only the order of some sums, so the
//! fastest candidate that fits is taken.

use super::plan;
use crate::backend::DeviceInfo;
use crate::config::Config;
use crate::memory::Plan;
use crate::model::{ActivationCheckpointing, GradBuffer, Offload, OffloadConfig, SHORTEST_MICRO_SEQUENCE};

/// Memory that a run may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the device's memory.
    pub device: u64,
    /// Bytes of host memory for offloaded parameters.
    pub host: u64,
}

impl Limits {
    /// Whether a plan keeps to them; a scratch file is as long as it has to be.
    pub fn fit(&self, config: &Config, plan: &Plan) -> bool {
        plan.limited_total() as u64 <= self.device
            && (config.offload.uses_file() || plan.host_total() as u64 <= self.host)
    }
}

/// The fastest candidate of `config` whose plan fits, with nothing left open.
pub fn autotune(config: &Config, sizes: &dyn DeviceInfo, limits: &Limits) -> Option<Config> {
    candidates(config, sizes).into_iter().find(|candidate| limits.fit(candidate, &plan(candidate, sizes).0))
}

/// The fastest candidate of all.
pub fn fastest(config: &Config, sizes: &dyn DeviceInfo) -> Config {
    candidates(config, sizes).swap_remove(0)
}

/// The candidate with the least memory of the device.
pub fn smallest(config: &Config, sizes: &dyn DeviceInfo) -> Option<Config> {
    candidates(config, sizes).into_iter().min_by_key(|candidate| plan(candidate, sizes).0.limited_total())
}

/// The largest `train.batch` up to `most` for which a candidate of `config` fits; nothing if none does.
pub fn largest_batch(config: &Config, sizes: &dyn DeviceInfo, limits: &Limits, most: usize) -> Option<usize> {
    let fits = |batch: usize| {
        let mut config = config.clone();
        config.train.batch = batch;
        config.validate().is_ok() && autotune(&config, sizes, limits).is_some()
    };
    let (mut good, mut bad) = (0, most + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    (good > 0).then_some(good)
}

/// A key of the configuration with the value that it has or should get, as the configuration spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `table.key`
    pub key: &'static str,
    /// The value.
    pub value: String,
}

/// The settings in which `to` differs from `from`, of those that [`autotune`] may choose.
pub fn differences(from: &Config, to: &Config) -> Vec<Setting> {
    settings(to).into_iter().zip(settings(from)).filter(|(to, from)| to != from).map(|(to, _)| to).collect()
}

/// What lets a configuration fit: everything left open; inputs of blocks in four bits; a smaller batch.
pub fn alternatives(config: &Config, sizes: &dyn DeviceInfo, limits: &Limits) -> Vec<Vec<Setting>> {
    let mut open = config.clone();
    (open.run.activation_checkpointing, open.run.grad_buffer) = (ActivationCheckpointing::Auto, GradBuffer::Auto);
    (open.offload, open.train.micro_batch) = (OffloadConfig::default(), 0);
    let mut int4 = open.clone();
    int4.run.activation_checkpointing = ActivationCheckpointing::BlockInt4;
    let whole = [&open, &int4].into_iter().find(|other| autotune(other, sizes, limits).is_some());
    // A smaller batch with what is set; with nothing set only if no other candidate was found.
    let others = if whole.is_none() { &[config, &open, &int4][..] } else { &[config][..] };
    let smaller = others.iter().find_map(|other| {
        let batch = largest_batch(other, sizes, limits, config.train.batch)?;
        let batch = Setting { key: "train.batch", value: batch.to_string() };
        Some([batch].into_iter().chain(differences(config, other)).collect())
    });
    whole.map(|other| differences(config, other)).into_iter().chain(smaller).collect()
}

/// The settings that [`autotune`] may choose.
fn settings(config: &Config) -> [Setting; 5] {
    [
        ("run.activation_checkpointing", word(&config.run.activation_checkpointing)),
        ("train.micro_batch", config.train.micro_batch.to_string()),
        ("run.grad_buffer", word(&config.run.grad_buffer)),
        ("offload.optimizer", word(&config.offload.optimizer)),
        ("offload.weights", word(&config.offload.weights)),
    ]
    .map(|(key, value)| Setting { key, value })
}

/// An enum's variant as the configuration spells it.
fn word(variant: &impl serde::Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("a variant without content is a word, not {other:?}"),
    }
}

/// All that a configuration leaves open, the fastest first: recomputing a forward costs less than fetching parameters,
/// small micro-batches less than a pass for each matrix.
fn candidates(config: &Config, sizes: &dyn DeviceInfo) -> Vec<Config> {
    let mut candidates = Vec::new();
    for offload in offloads(config, sizes) {
        for (checkpointing, micro_batch, grad_buffer) in shapes(config) {
            let mut candidate = Config { offload, ..config.clone() };
            (candidate.run.activation_checkpointing, candidate.run.grad_buffer) = (checkpointing, grad_buffer);
            candidate.train.micro_batch = micro_batch;
            candidates.push(candidate);
        }
    }
    candidates
}

/// Where parameters may live, the fastest first: optimizer state leaves the device before weights do, and both to one
/// place.
fn offloads(config: &Config, sizes: &dyn DeviceInfo) -> Vec<OffloadConfig> {
    use Offload::{Auto, Device, File, Host};
    // Where operations work on host memory in place, that memory is the device's.
    let away = if sizes.in_place() { vec![File] } else { vec![Host, File] };
    let all = || [Device].into_iter().chain(away.iter().copied());
    let of = |(weights, optimizer)| OffloadConfig { weights, optimizer };
    match (config.offload.weights, config.offload.optimizer) {
        (Auto, Auto) => {
            let offloaded = away.iter().flat_map(|&place| [(Device, place), (place, place)]);
            [(Device, Device)].into_iter().chain(offloaded).map(of).collect()
        }
        (weights, Auto) => all().map(|state| of((weights, state))).filter(one_place).collect(),
        (Auto, state) => all().map(|weights| of((weights, state))).filter(one_place).collect(),
        chosen => vec![of(chosen)],
    }
}

/// Whether what leaves the device goes to one place.
fn one_place(offload: &OffloadConfig) -> bool {
    let &OffloadConfig { weights, optimizer } = offload;
    weights == Offload::Device || optimizer == Offload::Device || weights == optimizer
}

/// Activation checkpointing, micro-batch and gradient buffer, the fastest first.
fn shapes(config: &Config) -> Vec<(ActivationCheckpointing, usize, GradBuffer)> {
    use ActivationCheckpointing as Checkpointing;
    let batch = config.rank_batch();
    let checkpointing = match config.run.activation_checkpointing {
        Checkpointing::Auto => vec![Checkpointing::None, Checkpointing::Block],
        chosen => vec![chosen],
    };
    let micro = match config.train.micro_batch {
        0 => halved(batch, config.train.sequence),
        chosen => vec![chosen.min(batch)],
    };
    let buffers = match config.run.grad_buffer {
        GradBuffer::Auto => vec![GradBuffer::Block, GradBuffer::Tensor],
        chosen => vec![chosen],
    };
    let mut all = Vec::new();
    for &checkpointing in &checkpointing {
        for (i, &buffer) in buffers.iter().enumerate() {
            for &micro in &micro {
                // One micro-batch of one process forms gradients one by one anyway; smaller ones save little of what is
                // kept whole.
                let kept = checkpointing == Checkpointing::None;
                let whole = micro == batch && config.run.ranks == 1;
                let needless = whole && i > 0 || micro < batch && kept && config.train.micro_batch == 0;
                if !needless {
                    all.push((checkpointing, micro, buffer));
                }
            }
        }
    }
    all
}

/// The batch, its half, and so on. Sequences too short for the matrix products of whole batches stay in one micro-batch.
fn halved(batch: usize, sequence: usize) -> Vec<usize> {
    let mut sizes = vec![batch];
    while let Some(&last) = sizes.last().filter(|&&last| last > 1 && sequence >= SHORTEST_MICRO_SEQUENCE) {
        sizes.push(last.div_ceil(2));
    }
    sizes
}
