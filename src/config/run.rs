//! `[run]`: where and how a run executes.

use crate::model::{ActivationCheckpointing, GradBuffer};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[run]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Folder of checkpoints, metrics and the resolved configuration.
    pub dir: PathBuf,
    /// Seed of everything random.
    pub seed: u64,
    /// Threads; 0: all processors. Results do not depend on it.
    pub threads: usize,
    /// Activation checkpointing: what forward keeps for backward. Results depend on it only if it is `block-int4`.
    pub activation_checkpointing: ActivationCheckpointing,
    /// How much of a block's gradient exists at once when `train.micro_batch` is smaller than the batch. Results do
    /// not depend on it.
    pub grad_buffer: GradBuffer,
    /// MiB of logits that may exist at once, or ten tokens' if those are more; 0: what keeps the device busy. Results
    /// depend on it as on `train.micro_batch`.
    pub logits_mib: usize,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            dir: "runs/quickstart".into(),
            seed: 1,
            threads: 0,
            activation_checkpointing: ActivationCheckpointing::Auto,
            grad_buffer: GradBuffer::Auto,
            logits_mib: 0,
        }
    }
}
