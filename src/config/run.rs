//! Where and how a run executes, and what it keeps where.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[run]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Folder of checkpoints, metrics and the resolved configuration.
    pub dir: PathBuf,
    /// Seed of everything random.
    pub seed: u64,
    /// Threads; 0: all processors. Results do not depend on it.
    pub threads: usize,
    /// What forward keeps for backward. Results depend on it only if it is `recompute-packed`.
    pub activations: KeptActivations,
    /// How much of a block's gradient exists at once when `train.micro_batch` is smaller than the batch. Results do
    /// not depend on it.
    pub gradient: GradientBuffer,
    /// Where the blocks' weights live. Results do not depend on it.
    pub weights: Residence,
    /// Where residue and optimizer state live. Results do not depend on it.
    pub state: Residence,
    /// MiB of logits that may exist at once, or ten tokens' if those are more; 0: what keeps the device busy. Results
    /// depend on it as on `train.micro_batch`.
    pub logits_mib: usize,
}

/// Where parameters live between their uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residence {
    /// The first of the others that fits into memory.
    #[default]
    Auto,
    /// In the memory of the device that computes.
    Device,
    /// In this machine's memory; a device with memory of its own gets each block one ahead of its use.
    Host,
    /// In a working file below `run.dir`, read ahead and written behind. If weights or state are here, whatever else
    /// leaves a GPU is here too.
    File,
}

/// What exists of a block's gradient at once, if it is summed over several micro-batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradientBuffer {
    /// `layer` if that fits into memory, else `tensor`.
    #[default]
    Auto,
    /// All of it: one pass over the micro-batches.
    Layer,
    /// No more than its largest matrix: a pass for each group of matrices that is as small, all from a copy of the
    /// block's weights, which is small only if they are packed. About two and a half times the work of backward.
    Tensor,
}

/// What forward keeps for backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptActivations {
    /// `keep` if that fits into memory, else `recompute`.
    #[default]
    Auto,
    /// Everything.
    Keep,
    /// Each block's input; the rest of a block is computed a second time when its backward begins.
    Recompute,
    /// Each block's input in four bits, stochastically rounded; what is computed a second time is then not quite what
    /// was computed first.
    RecomputePacked,
}
