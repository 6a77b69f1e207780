//! `[train]`: steps, batch, schedule, cadences.

use crate::backend::Precision;
use crate::error::{Problems, number};
use crate::model::{MOST_ELEMENTS, ModelConfig, SHORTEST_MICRO_SEQUENCE};
use crate::optim::Schedule;
use serde::{Deserialize, Serialize};

/// The usual length of `wsd`'s decay.
const DECAY_SHARE: f64 = 0.2;

/// The usual last rate, as a share of the peak.
const FINAL_LR: f64 = 0.1;

/// Often enough for a curve, rarely enough to cost far less than a hundredth of a step.
const AUDIT_EVERY: u64 = 20;

/// Beyond any warm-up's first steps.
const MAX_UNMOVED: u64 = 200;

/// Long enough for a deviation, short enough to follow a loss that falls.
const SPIKE_WINDOW: u64 = 64;

/// A run that needs more has another defect than a few bad batches.
const MAX_REWINDS: usize = 10;

/// `[train]`. Unknown keys are left to the reader: a configuration refuses them; in a file they are options of a later
/// version's training, which change nothing about the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// Optimizer steps; 0: as many as `epochs` or `tokens` make, see [`Config::settle`](crate::Config::settle).
    pub steps: u64,
    /// How often the training rows are gone through, in place of `steps`; 0: that is not how the length is given.
    #[serde(skip_serializing_if = "is_none")]
    pub epochs: f64,
    /// Tokens that are trained on, in place of `steps`; 0: that is not how the length is given.
    #[serde(skip_serializing_if = "is_zero")]
    pub tokens: u64,
    /// Sequences per step; 0: what fits the amount of text.
    pub batch: usize,
    /// Sequences that a block computes at once; 0: as many as fit into memory. On a CPU results do not
    /// depend on it; on a GPU gradients are summed in another order.
    pub micro_batch: usize,
    /// Whether several ranks sum gradients up in the order of the tokens, one after the other, as one process does; else all at
    /// once, so that results depend on the number of ranks.
    #[serde(skip_serializing_if = "is_true")]
    pub reproducible: bool,
    /// What sums are rounded to that go to other ranks at once: half as many bytes in bfloat16. Each rank's are rounded once, and
    /// added up in float32.
    #[serde(skip_serializing_if = "is_default")]
    pub reduce_dtype: Precision,
    /// Tokens per sequence; 0: what fits the text.
    pub sequence: usize,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// The warm-up as a share of the steps, where their number is not known yet.
    #[serde(skip_serializing_if = "is_none")]
    pub warmup_share: f64,
    /// What follows the warm-up.
    pub schedule: Schedule,
    /// Last learning rate as a share of the peak; not of `constant`.
    pub final_lr: f64,
    /// `wsd`: steps over which the rate decays; 0: `decay_share` of the steps.
    #[serde(skip_serializing_if = "is_zero")]
    pub decay_steps: u64,
    /// `wsd`: the decay as a share of the steps.
    #[serde(skip_serializing_if = "is_default_share")]
    pub decay_share: f64,
    /// Steps between validations; 0: only at the end.
    pub eval_every: u64,
    /// Validation sequences at most; 0: all.
    pub eval_sequences: usize,
    /// Steps between checkpoints; 0: only at the end.
    pub checkpoint_every: u64,
    /// Newest checkpoints that are kept; 0: all.
    pub keep: usize,
    /// Checkpoints at multiples of this many steps, a multiple of `checkpoint_every`, are never deleted; 0: none.
    pub milestone_every: u64,
    /// Steps between text samples; 0: only at the end.
    pub sample_every: u64,
    /// Prompt of the text samples; of conversations it is the question, in their template. Empty: the first question or prompt
    /// of the training data.
    pub sample_prompt: String,
    /// Tokens of a text sample.
    pub sample_tokens: usize,
    /// Steps in a row with a non-finite loss or gradient before the run stops.
    pub max_nonfinite: u64,
    /// Steps between audits of a sample of the weights; 0: none.
    #[serde(skip_serializing_if = "is_default_audit")]
    pub audit_every: u64,
    /// Steps at a learning rate above 0 without any change of the blocks' weights before the run stops; 0: it never does.
    #[serde(skip_serializing_if = "is_default_unmoved")]
    pub max_unmoved: u64,
    /// Usual deviations above the mean beyond which a step's loss or gradient norm is a spike, or if they are not finite; 0:
    /// none is.
    #[serde(skip_serializing_if = "is_default")]
    pub spike_z: f64,
    /// Steps over which mean and deviation are formed, and before which nothing is a spike.
    #[serde(skip_serializing_if = "is_default_window")]
    pub spike_window: u64,
    /// What happens at a spike.
    #[serde(skip_serializing_if = "is_default")]
    pub on_spike: OnSpike,
    /// Batches that are left out by going back before the run stops instead.
    #[serde(skip_serializing_if = "is_default_rewinds")]
    pub max_rewinds: usize,
    /// Whether the weights of the best validation are kept.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_best: bool,
    /// Validations without an improvement before the run ends; 0: it goes on.
    #[serde(skip_serializing_if = "is_default")]
    pub patience: u64,
    /// TrainConfig on the first batch only: a model that cannot overfit it has a defect.
    pub overfit: bool,
}

/// What happens at a step whose loss or gradient is a spike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnSpike {
    /// A step with such a loss is not learned. A gradient shows only once its update is done, and is let pass.
    #[default]
    Skip,
    /// The run goes back to its last checkpoint and leaves the batch out.
    Rewind,
    /// The run stops.
    Stop,
}

impl TrainConfig {
    /// Keys that have no effect beside the others but hold something else than by default. Files of earlier versions may have
    /// such keys, so they are asked for of configurations only.
    pub fn unread(&self) -> Problems {
        let &Self { schedule, final_lr, spike_z, spike_window, on_spike, max_rewinds, .. } = self;
        let mut problems = Problems::default();
        let reason = "is where the other schedules end, and \"constant\" ends at the peak; remove the key or set \
                      train.schedule=\"cosine\"";
        let ends = schedule != Schedule::Constant || final_lr == FINAL_LR;
        problems.need(ends, "train.final_lr", number(final_lr), reason);
        let reason = "is read with train.spike_z above 0 only; remove the key or set train.spike_z=6";
        problems.need(spike_z > 0.0 || is_default_window(&spike_window), "train.spike_window", spike_window, reason);
        let reason = "is read with train.on_spike=\"rewind\" only; remove the key or set that";
        let rewinds = spike_z > 0.0 && on_spike == OnSpike::Rewind;
        problems.need(rewinds || is_default_rewinds(&max_rewinds), "train.max_rewinds", max_rewinds, reason);
        let reason = "counts validations, and train.eval_every = 0 makes one, at the end; set train.eval_every=100";
        let counted = self.patience == 0 || self.eval_every > 0;
        problems.need(counted, "train.patience", self.patience, reason);
        self.milestone_problems(&mut problems);
        problems
    }

    /// Milestones are checkpoints, of which there are some.
    fn milestone_problems(&self, problems: &mut Problems) {
        let &Self { steps, checkpoint_every, milestone_every, .. } = self;
        if milestone_every == 0 {
            return;
        }
        let reason = format_args!(
            "must be a multiple of train.checkpoint_every = {checkpoint_every}: no other steps have checkpoints that could stay"
        );
        let met = checkpoint_every > 0 && milestone_every.is_multiple_of(checkpoint_every);
        problems.need(met, "train.milestone_every", milestone_every, reason);
        let reason =
            format_args!("must not exceed train.steps = {steps}, or no checkpoint is a milestone; 0 is for none");
        problems.need(steps == 0 || milestone_every <= steps, "train.milestone_every", milestone_every, reason);
    }

    /// Every mistake that its numbers show, beside a model of this shape.
    pub fn problems(&self, model: &ModelConfig) -> Problems {
        let (train, context, mut problems) = (self, model.context, Problems::default());
        self.length_problems(&mut problems);
        problems.within("train.batch", train.batch, 0, 1 << 20);
        problems.need(
            !train.reproducible || train.reduce_dtype == Precision::F32,
            "train.reduce_dtype",
            "bf16",
            "rounds the sums of several ranks, which train.reproducible = true keeps exact; set that to false",
        );
        let reason = format_args!("must not exceed model.context = {context}; shorten it or raise model.context");
        problems.need(train.sequence <= context, "train.sequence", train.sequence, reason);
        let reason = format_args!(
            "needs sequences of {SHORTEST_MICRO_SEQUENCE} tokens or more, train.sequence = {}; set it to 0",
            train.sequence
        );
        problems.need(
            !train.is_split() || train.sequence == 0 || train.sequence >= SHORTEST_MICRO_SEQUENCE,
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
        problems.need(train.steps == 0 || train.warmup <= train.steps, "train.warmup", train.warmup, reason);
        let reason = "must be 0 to 1: it is a share of optimizer.lr";
        problems.need((0.0..=1.0).contains(&train.final_lr), "train.final_lr", number(train.final_lr), reason);
        self.decay_problems(&mut problems);
        self.watch_problems(&mut problems);
        problems
    }

    /// The length is given in one of three ways.
    fn length_problems(&self, problems: &mut Problems) {
        let &Self { steps, epochs, tokens, warmup_share, .. } = self;
        let sound = (0.0..=1e9).contains(&epochs);
        problems.need(sound, "train.epochs", number(epochs), "must be a number above 0");
        let given = [steps > 0, epochs > 0.0, tokens > 0].into_iter().filter(|given| *given).count();
        let reason = "must be 1 or more, unless train.epochs or train.tokens say how long the run is";
        problems.need(given > 0 || !sound, "train.steps", steps, reason);
        let reason = "says how long the run is, and so does another key; keep one of train.steps, train.epochs and \
                      train.tokens";
        let key = if epochs > 0.0 { "train.epochs" } else { "train.tokens" };
        let found = if epochs > 0.0 { number(epochs) } else { tokens.to_string() };
        problems.need(given < 2, key, found, reason);
        let reason = "must be 0 to 1: it is a share of the steps";
        problems.need((0.0..=1.0).contains(&warmup_share), "train.warmup_share", number(warmup_share), reason);
    }

    /// Turns a warm-up that is given as a share of the steps into steps, once their number is known.
    pub(super) fn settle_warmup(&mut self) {
        if self.warmup_share > 0.0 && self.steps > 0 {
            self.warmup = (self.warmup_share * self.steps as f64).round() as u64;
            self.warmup_share = 0.0;
        }
    }

    /// Whether something of it follows from the text.
    pub fn is_open(&self) -> bool {
        self.steps == 0 || self.batch == 0 || self.sequence == 0
    }

    fn watch_problems(&self, problems: &mut Problems) {
        let &Self { spike_z, spike_window, on_spike, checkpoint_every, .. } = self;
        let reason = "must be 0 (off) or 1 or more: a number of usual deviations, such as 6";
        let sound = spike_z == 0.0 || (1.0..=1e6).contains(&spike_z);
        problems.need(sound, "train.spike_z", number(spike_z), reason);
        problems.within("train.spike_window", spike_window as usize, 2, 1 << 20);
        let reason = "is read with train.spike_z above 0 only; set it, such as train.spike_z=6";
        let word = match on_spike {
            OnSpike::Skip => "\"skip\"",
            OnSpike::Rewind => "\"rewind\"",
            OnSpike::Stop => "\"stop\"",
        };
        problems.need(spike_z > 0.0 || on_spike == OnSpike::Skip, "train.on_spike", word, reason);
        let reason = "goes back to checkpoints, and train.checkpoint_every = 0 makes none; set it";
        problems.need(on_spike != OnSpike::Rewind || checkpoint_every > 0, "train.on_spike", word, reason);
    }

    fn decay_problems(&self, problems: &mut Problems) {
        let &Self { steps, warmup, schedule, decay_steps, decay_share, .. } = self;
        let wsd = schedule == Schedule::Wsd;
        let open = steps == 0;
        let only = "is read by the schedule \"wsd\" only; remove the key or set train.schedule=\"wsd\"";
        problems.need(wsd || decay_steps == 0, "train.decay_steps", decay_steps, only);
        problems.need(wsd || is_default_share(&decay_share), "train.decay_share", number(decay_share), only);
        if !wsd {
            return;
        }
        let reason = "must be above 0 and at most 1: it is a share of train.steps";
        let sound = decay_share > 0.0 && decay_share <= 1.0;
        problems.need(sound, "train.decay_share", number(decay_share), reason);
        let left = steps.saturating_sub(warmup);
        let reason = format_args!("must not exceed the {left} steps that train.warmup leaves of train.steps");
        problems.need(open || decay_steps <= left, "train.decay_steps", decay_steps, reason);
        let reason = format_args!("are {} steps, but train.warmup leaves {left} of train.steps", self.decay());
        let fits = open || decay_steps > 0 || !sound || self.decay() <= left.max(1);
        problems.need(fits, "train.decay_share", number(decay_share), reason);
    }

    /// Steps over which `wsd` decays: at least one.
    pub fn decay(&self) -> u64 {
        match self.decay_steps {
            0 => ((self.steps as f64 * self.decay_share).round() as u64).max(1),
            steps => steps,
        }
    }

    /// Sequences of a micro-batch, at most the batch; all of it where nothing smaller was chosen.
    pub fn micro_batch(&self) -> usize {
        if self.micro_batch == 0 { self.batch } else { self.micro_batch.min(self.batch) }
    }

    /// Positions of text samples that go on from `text` at most: it has no more tokens than bytes, but for one that begins
    /// it.
    pub fn sampled(&self, text: &str) -> usize {
        text.len().saturating_add(self.sample_tokens).saturating_add(1)
    }

    /// Whether a batch is more than one micro-batch.
    pub fn is_split(&self) -> bool {
        self.micro_batch() < self.batch
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 400,
            epochs: 0.0,
            tokens: 0,
            batch: 16,
            micro_batch: 0,
            reproducible: true,
            reduce_dtype: Precision::F32,
            sequence: 128,
            warmup: 40,
            warmup_share: 0.0,
            schedule: Schedule::Cosine,
            final_lr: FINAL_LR,
            decay_steps: 0,
            decay_share: DECAY_SHARE,
            eval_every: 100,
            eval_sequences: 0,
            checkpoint_every: 200,
            keep: 3,
            milestone_every: 0,
            sample_every: 0,
            sample_prompt: "The ".into(),
            sample_tokens: 200,
            max_nonfinite: 10,
            audit_every: AUDIT_EVERY,
            max_unmoved: MAX_UNMOVED,
            spike_z: 0.0,
            spike_window: SPIKE_WINDOW,
            on_spike: OnSpike::Skip,
            max_rewinds: MAX_REWINDS,
            keep_best: false,
            patience: 0,
            overfit: false,
        }
    }
}

// Keys that older files do not have are written only where they say something.

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_none(value: &f64) -> bool {
    *value == 0.0
}

fn is_default_share(value: &f64) -> bool {
    *value == DECAY_SHARE
}

fn is_default_audit(value: &u64) -> bool {
    *value == AUDIT_EVERY
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_default_window(value: &u64) -> bool {
    *value == SPIKE_WINDOW
}

fn is_default_rewinds(value: &usize) -> bool {
    *value == MAX_REWINDS
}

fn is_default_unmoved(value: &u64) -> bool {
    *value == MAX_UNMOVED
}
