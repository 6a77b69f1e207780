//! `[train]`: steps, batch, schedule, cadences.

use crate::optim::Schedule;
use serde::{Deserialize, Serialize};

/// `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences per step.
    pub batch: usize,
    /// Sequences that a block computes at once; 0: as many as fit into memory. On a CPU results do not
    /// depend on it; on a GPU gradients are summed in another order.
    pub micro_batch: usize,
    /// Tokens per sequence.
    pub sequence: usize,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// What follows the warm-up.
    pub schedule: Schedule,
    /// Last learning rate as a share of the peak.
    pub final_lr: f64,
    /// Steps between validations; 0: only at the end.
    pub eval_every: u64,
    /// Validation sequences at most; 0: all.
    pub eval_sequences: usize,
    /// Steps between checkpoints; 0: only at the end.
    pub checkpoint_every: u64,
    /// Newest checkpoints that are kept; 0: all.
    pub keep: usize,
    /// Checkpoints at multiples of this many steps are never deleted; 0: none.
    pub milestone_every: u64,
    /// Steps between text samples; 0: only at the end.
    pub sample_every: u64,
    /// Prompt of the text samples.
    pub sample_prompt: String,
    /// Tokens of a text sample.
    pub sample_tokens: usize,
    /// Steps in a row with a non-finite loss or gradient before the run stops.
    pub max_nonfinite: u64,
    /// TrainConfig on the first batch only: a model that cannot overfit it has a defect.
    pub overfit: bool,
}

impl TrainConfig {
    /// Sequences of a micro-batch, at most the batch; all of it where nothing smaller was chosen.
    pub fn micro_batch(&self) -> usize {
        if self.micro_batch == 0 { self.batch } else { self.micro_batch.min(self.batch) }
    }

    /// Whether a batch is more than one micro-batch.
    pub fn is_parted(&self) -> bool {
        self.micro_batch() < self.batch
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 400,
            batch: 16,
            micro_batch: 0,
            sequence: 128,
            warmup: 40,
            schedule: Schedule::Cosine,
            final_lr: 0.1,
            eval_every: 100,
            eval_sequences: 0,
            checkpoint_every: 200,
            keep: 3,
            milestone_every: 0,
            sample_every: 0,
            sample_prompt: "The ".into(),
            sample_tokens: 200,
            max_nonfinite: 10,
            overfit: false,
        }
    }
}
