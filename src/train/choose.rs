//! What a configuration leaves to the program so that its plan fits: micro-batches, what forward keeps, how much of a
//! gradient exists at once, and where parameters live. On a CPU none of it changes a result, on a GPU only the order of
//! some sums, so it is chosen by speed alone.

use super::plan;
use crate::backend::DeviceInfo;
use crate::config::Config;
use crate::memory::Plan;
use crate::model::{GradientBuffer, KeptActivations, Residence, SHORTEST_PARTED};

/// What may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the device's memory.
    pub device: u64,
    /// Bytes of this machine's memory for parameters that a device fetches.
    pub host: u64,
}

impl Limits {
    /// Whether a plan keeps to them; a working file is as long as it has to be.
    pub fn fit(&self, config: &Config, plan: &Plan) -> bool {
        let in_file = [config.run.weights, config.run.state].contains(&Residence::File);
        plan.total() as u64 <= self.device && (in_file || plan.host_total() as u64 <= self.host)
    }
}

/// The fastest of the ways that `config` leaves open whose plan fits, with nothing left open.
pub fn choose(config: &Config, sizes: &dyn DeviceInfo, limits: &Limits) -> Option<Config> {
    ways(config, sizes).into_iter().find(|way| limits.fit(way, &plan(way, sizes).0))
}

/// The configuration with the fastest way of all that it leaves open.
pub fn fastest(config: &Config, sizes: &dyn DeviceInfo) -> Config {
    ways(config, sizes).swap_remove(0)
}

/// The way with the least memory of the device.
pub fn smallest(config: &Config, sizes: &dyn DeviceInfo) -> Option<Config> {
    ways(config, sizes).into_iter().min_by_key(|way| plan(way, sizes).0.total())
}

/// All ways that a configuration leaves open, the fastest first: a second forward costs less than fetching parameters,
/// small micro-batches less than passes for each matrix.
fn ways(config: &Config, sizes: &dyn DeviceInfo) -> Vec<Config> {
    let mut ways = Vec::new();
    for (weights, state) in residences(config, sizes) {
        for (activations, micro_batch, gradient) in passes(config) {
            let mut way = config.clone();
            (way.run.weights, way.run.state) = (weights, state);
            (way.run.activations, way.run.gradient) = (activations, gradient);
            way.train.micro_batch = micro_batch;
            ways.push(way);
        }
    }
    ways
}

/// Where weights and state may be, the fastest first: state leaves the device before weights do, and both to one place.
fn residences(config: &Config, sizes: &dyn DeviceInfo) -> Vec<(Residence, Residence)> {
    use Residence::{Auto, Device, File, Host};
    // Where operations work at home, this machine's memory is the device's.
    let away = if sizes.in_place() { vec![File] } else { vec![Host, File] };
    let all = || [Device].into_iter().chain(away.iter().copied());
    match (config.run.weights, config.run.state) {
        (Auto, Auto) => {
            let beside = away.iter().flat_map(|&place| [(Device, place), (place, place)]);
            [(Device, Device)].into_iter().chain(beside).collect()
        }
        (weights, Auto) => all().filter(|&state| joint(weights, state)).map(|state| (weights, state)).collect(),
        (Auto, state) => all().filter(|&weights| joint(weights, state)).map(|weights| (weights, state)).collect(),
        chosen => vec![chosen],
    }
}

/// Whether what leaves the device goes to one place.
fn joint(weights: Residence, state: Residence) -> bool {
    weights == Residence::Device || state == Residence::Device || weights == state
}

/// What is kept, micro-batches and gradients, the fastest first.
fn passes(config: &Config) -> Vec<(KeptActivations, usize, GradientBuffer)> {
    use GradientBuffer::{Layer, Tensor};
    use KeptActivations::{Auto, Keep, Recompute};
    let batch = config.train.batch;
    let kept = match config.run.activations {
        Auto => vec![Keep, Recompute],
        chosen => vec![chosen],
    };
    let micro = match config.train.micro_batch {
        0 => halves(batch, config.train.sequence),
        chosen => vec![chosen.min(batch)],
    };
    let gradients = match config.run.gradient {
        GradientBuffer::Auto => vec![Layer, Tensor],
        chosen => vec![chosen],
    };
    let mut all = Vec::new();
    for &kept in &kept {
        for (i, &gradient) in gradients.iter().enumerate() {
            for &micro in &micro {
                // One micro-batch forms gradients one by one anyway; parts of a batch that is kept save little.
                let needless =
                    micro == batch && i > 0 || micro < batch && kept == Keep && config.train.micro_batch == 0;
                if !needless {
                    all.push((kept, micro, gradient));
                }
            }
        }
    }
    all
}

/// The batch and its halves. Sequences too short for the products of whole batches are not parted.
fn halves(batch: usize, sequence: usize) -> Vec<usize> {
    let mut halves = vec![batch];
    while let Some(&last) = halves.last().filter(|&&last| last > 1 && sequence >= SHORTEST_PARTED) {
        halves.push(last.div_ceil(2));
    }
    halves
}
