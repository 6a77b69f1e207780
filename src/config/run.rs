//! `[run]`: where and how a run executes.

use crate::error::Problems;
use crate::model::{ActivationCheckpointing, GradBuffer};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The resolved configuration that every run keeps in its folder.
pub const RECORD: &str = "config.toml";

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
    /// Whether the metrics are also written as event files of TensorBoard.
    #[serde(skip_serializing_if = "is_off")]
    pub tensorboard: bool,
    /// MiB of logits that may exist at once, or ten tokens' if those are more; 0: what keeps the device busy. Results
    /// depend on it as on `train.micro_batch`.
    pub logits_mib: usize,
    /// Processes that share each batch. Not a key: the launcher decides. Results do not depend on it.
    #[serde(skip)]
    pub ranks: usize,
}

impl RunConfig {
    /// Every mistake that its values show.
    pub fn problems(&self) -> Problems {
        let (run, mut problems) = (self, Problems::default());
        problems.need(!run.dir.as_os_str().is_empty(), "run.dir", "\"\"", "must name a folder, such as \"runs/first\"");
        let reason = format_args!("must be at most {}, the largest whole number of TOML", i64::MAX);
        problems.need(i64::try_from(run.seed).is_ok(), "run.seed", run.seed, reason);
        // One TiB: beyond any device.
        problems.within("run.logits_mib", run.logits_mib, 0, 1 << 20);
        let reason = "must be 0 (all processors) to 4096";
        problems.need(run.threads <= 4096, "run.threads", run.threads, reason);
        problems
    }
}

// A key that older files do not have is written only where it says something.
fn is_off(switch: &bool) -> bool {
    !switch
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            dir: "runs/quickstart".into(),
            seed: 1,
            threads: 0,
            activation_checkpointing: ActivationCheckpointing::Auto,
            grad_buffer: GradBuffer::Auto,
            tensorboard: false,
            logits_mib: 0,
            ranks: 1,
        }
    }
}
