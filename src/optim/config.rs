//! `[optimizer]`: the rule and its numbers.

use super::{AdjustLr, Groups, ParamInfo, Rule, Variant};
use crate::backend::{Moment, SecondMoment};
use crate::quant::StateCodec;
use serde::{Deserialize, Serialize};

/// Which rows of an untied embedding a step updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmbeddingUpdate {
    /// All: moments of tokens that did not occur decay, and their weights go on moving by them.
    #[default]
    Dense,
    /// Those with a gradient, which are those of tokens that occurred; all others keep weights and moments as they are,
    /// without weight decay, as in PyTorch's SparseAdam. A reset of the moments is one of all rows.
    Sparse,
}

/// `[optimizer]`. Unknown keys are left to the reader: a configuration refuses them, a file of a later version may have
/// them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerConfig {
    /// The rule.
    pub name: Rule,
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay (never on norms).
    pub weight_decay: f64,
    /// Norm of the whole gradient beyond which it is scaled down to it, before the rule sees it; 0: never.
    #[serde(skip_serializing_if = "is_zero")]
    pub grad_clip: f64,
    /// Stable-SPAM: which reading.
    pub variant: Variant,
    /// Stable-SPAM: decay of AdaGN's mean norm.
    pub gamma1: f64,
    /// Stable-SPAM: decay of AdaGN's mean squared norm.
    pub gamma2: f64,
    /// Stable-SPAM: decay of AdaClip's threshold.
    pub gamma3: f64,
    /// Steps between resets of the moments; 0: never (Stable-SPAM, SPAM).
    pub reset_interval: u64,
    /// Stable-SPAM: steps over which a cosine lowers beta1 and gamma1 towards `momentum_decay_floor`; 0: off.
    pub momentum_decay: u64,
    /// Stable-SPAM: the cosine's floor.
    pub momentum_decay_floor: f64,
    /// SPAM: a spike is an element whose square exceeds this many times its second moment.
    pub spike_threshold: f64,
    /// SPAM: steps after the start and after each reset in which no spike is clipped.
    pub spike_quiet: u64,
    /// SPAM: steps of the warm-up after a reset.
    pub reset_warmup: u64,
    /// SPAM: share of the elements that receive updates between two resets.
    pub density: f64,
    /// SGD, SCALE's head, Muon: how much of the momentum is kept.
    #[serde(skip_serializing_if = "is_zero")]
    pub momentum: f64,
    /// SGD, Muon: look ahead along the momentum.
    #[serde(skip_serializing_if = "is_false")]
    pub nesterov: bool,
    /// SCALE: peak learning rate of Adam on norms and biases. Muon: of AdamW on all that is no matrix of a block.
    #[serde(skip_serializing_if = "is_zero")]
    pub adam_lr: f64,
    /// Muon: iterations that orthogonalize the momentum.
    #[serde(skip_serializing_if = "is_none")]
    pub ns_steps: u64,
    /// Muon: how the learning rate depends on the shape of a matrix.
    #[serde(skip_serializing_if = "AdjustLr::is_original")]
    pub adjust_lr: AdjustLr,
    /// GaLore, Fira, APOLLO: rows of the projection.
    #[serde(skip_serializing_if = "is_none")]
    pub rank: u64,
    /// GaLore, Fira: what directions from the subspace are multiplied by. APOLLO, APOLLO-Mini: the square of what all
    /// directions are multiplied by.
    #[serde(skip_serializing_if = "is_zero")]
    pub scale: f64,
    /// The same rules: steps from one projection to the next.
    #[serde(skip_serializing_if = "is_none")]
    pub update_proj_gap: u64,
    /// APOLLO, APOLLO-Mini: whether directions are multiplied before their growth is limited.
    #[serde(skip_serializing_if = "is_false")]
    pub scale_front: bool,
    /// GaLore, Fira: how the projection is stored.
    #[serde(skip_serializing_if = "is_float")]
    pub projection: Moment,
    /// Adafactor: the exponent of the step's number that gradients enter the second moments by.
    #[serde(skip_serializing_if = "is_zero")]
    pub beta2_decay: f64,
    /// Adafactor: the least root mean square that a weight counts as.
    #[serde(skip_serializing_if = "is_zero")]
    pub eps2: f64,
    /// Adafactor: the root mean square that directions are limited to.
    #[serde(skip_serializing_if = "is_zero")]
    pub clip_threshold: f64,
    /// Which rows of an untied embedding are updated.
    #[serde(skip_serializing_if = "EmbeddingUpdate::is_dense")]
    pub embedding: EmbeddingUpdate,
}

/// How many times smaller than a rule's rate for new weights its rate for fine-tuning is.
const TUNING: f64 = 20.0;

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: Rule::StableSpam,
            lr: 4e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            grad_clip: 0.0,
            variant: Variant::Paper,
            gamma1: 0.7,
            gamma2: 0.9,
            gamma3: 0.999,
            reset_interval: 1000,
            momentum_decay: 0,
            momentum_decay_floor: 0.5,
            spike_threshold: 5000.0,
            spike_quiet: 20,
            reset_warmup: 150,
            density: 1.0,
            momentum: 0.0,
            nesterov: false,
            adam_lr: 0.0,
            ns_steps: 0,
            adjust_lr: AdjustLr::Original,
            rank: 0,
            scale: 0.0,
            update_proj_gap: 0,
            scale_front: false,
            projection: Moment::F32,
            beta2_decay: 0.0,
            eps2: 0.0,
            clip_threshold: 0.0,
            embedding: EmbeddingUpdate::Dense,
        }
    }
}

impl OptimizerConfig {
    /// A rule with its published numbers; those of Adam's family are the quick-start's.
    pub fn of(name: Rule) -> Self {
        Self { name, ..Self::default() }.published("")
    }

    /// The same rule with its published numbers for the model of a preset. Where none are published, rate, weight decay
    /// and clipping stay and the rest is as by default.
    pub fn published(&self, preset: &str) -> Self {
        let info = self.name.info();
        let (variant, &Self { name, lr, weight_decay, grad_clip, .. }) = (info.variants[0], self);
        let mut config = Self { name, lr, weight_decay, grad_clip, variant, ..Self::default() };
        (info.publish)(&mut config, preset.trim_end_matches("-compact"));
        config
    }

    /// The same with the rate of fine-tuning: a twentieth of the rate of training from new weights. It is a starting point,
    /// which nobody has tuned for a model at hand.
    pub fn for_tuning(self) -> Self {
        Self { lr: self.lr / TUNING, adam_lr: self.adam_lr / TUNING, ..self }
    }

    /// The rule, for all parameters.
    pub fn groups(&self, state: StateConfig) -> Groups {
        (self.name.info().groups)(self, state)
    }
}

// Keys that older files do not have are written only where they say something.

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn is_none(value: &u64) -> bool {
    *value == 0
}

fn is_float(value: &Moment) -> bool {
    *value == Moment::F32
}

fn is_false(value: &bool) -> bool {
    !value
}

impl EmbeddingUpdate {
    /// Whether it is the default, which older files do not have as a key.
    fn is_dense(&self) -> bool {
        *self == Self::Dense
    }
}

/// What `[storage]` says of optimizer state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateConfig {
    /// First moments and momentum.
    pub m: Moment,
    /// Second moments.
    pub v: SecondMoment,
    /// Whether rounding errors of packed weights are fed back into the momentum.
    pub feedback: bool,
}

impl StateConfig {
    /// How a parameter's first moment or momentum is stored: float32 for vectors.
    pub fn momentum_of(&self, param: &ParamInfo) -> StateCodec {
        if param.class.is_vector() { StateCodec::F32 } else { self.signed() }
    }

    /// How a signed state tensor is stored.
    pub fn signed(&self) -> StateCodec {
        signed(self.m)
    }
}

/// How a signed state tensor is stored.
pub(super) fn signed(moment: Moment) -> StateCodec {
    match moment {
        Moment::F32 => StateCodec::F32,
        Moment::Int8 => StateCodec::Int8 { signed: true },
        Moment::Int4 => StateCodec::Int4 { signed: true },
    }
}
