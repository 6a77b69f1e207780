//! `[train]`: steps, batch, schedule, cadences.

use crate::error::{Problems, number};
use crate::model::{MOST_ELEMENTS, ModelConfig, SHORTEST_PARTED};
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
    /// Every mistake that its numbers show, beside a model of this shape.
    pub fn problems(&self, model: &ModelConfig) -> Problems {
        let (train, context, mut problems) = (self, model.context, Problems::default());
        problems.need(train.steps >= 1, "train.steps", train.steps, "must be 1 or more");
        problems.within("train.batch", train.batch, 1, 1 << 20);
        problems.need(train.sequence >= 1, "train.sequence", train.sequence, "must be 1 or more tokens");
        let reason = format_args!("must not exceed model.context = {context}; shorten it or raise model.context");
        problems.need(train.sequence <= context, "train.sequence", train.sequence, reason);
        let reason = format_args!(
            "needs sequences of {SHORTEST_PARTED} tokens or more, train.sequence = {}; set it to 0",
            train.sequence
        );
        problems.need(
            !train.is_parted() || train.sequence >= SHORTEST_PARTED,
            "train.micro_batch",
            train.micro_batch,
            reason,
        );
        let &ModelConfig { hidden, intermediate, vocab, layers, .. } = model;
        let factors = [train.batch, train.sequence, hidden.max(intermediate).max(vocab), layers];
        let activations = factors.iter().fold(1u64, |product, &n| product.saturating_mul(n as u64));
        let reason = format_args!(
            "makes {activations} activations of a kind with train.sequence = {} and this model, at most \
             {MOST_ELEMENTS} are possible",
            train.sequence
        );
        problems.need(activations <= MOST_ELEMENTS, "train.batch", train.batch, reason);
        let reason = format_args!("must not exceed train.steps = {}; a tenth of the steps is usual", train.steps);
        problems.need(train.warmup <= train.steps, "train.warmup", train.warmup, reason);
        let reason = "must be 0 to 1: it is a share of optimizer.lr";
        problems.need((0.0..=1.0).contains(&train.final_lr), "train.final_lr", number(train.final_lr), reason);
        problems
    }

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
