//! `[optimizer]`: the rule and its numbers.

use super::ParamInfo;
use crate::backend::{Moment, SecondMoment};
use crate::error::{Problems, number};
use crate::quant::StateCodec;
use serde::{Deserialize, Serialize};

/// The update rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// arXiv 2502.17055.
    StableSpam,
    /// arXiv 2501.06842.
    Spam,
    /// Adam with decoupled weight decay.
    Adamw,
    /// Adam; weight decay is added to the gradient.
    Adam,
    /// Stochastic gradient descent, with momentum if `momentum` is above 0; weight decay is added to the gradient.
    Sgd,
    /// Lion (arXiv 2302.06675): the sign of an interpolated momentum.
    Lion,
    /// SCALE (arXiv 2506.16659): normalized gradients, momentum in the head only, Adam for vectors.
    Scale,
}

impl Rule {
    /// Whether it is Adam or a rule with Adam's state.
    pub fn is_adam_like(self) -> bool {
        matches!(self, Self::StableSpam | Self::Spam | Self::Adamw | Self::Adam)
    }
}

/// Readings of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// As the paper means it: Stable-SPAM's resets, SCALE's norms.
    Paper,
    /// As the published code behaves in every detail: Stable-SPAM at and after a reset, SGD and SCALE where a gradient is
    /// all zero.
    Reference,
    /// As the published code, except that an all-zero gradient leaves a tensor's state as it is (SGD, Lion, SCALE).
    Standard,
}

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
    /// SGD, and SCALE's head: how much of the momentum is kept.
    #[serde(skip_serializing_if = "is_zero")]
    pub momentum: f64,
    /// SGD: look ahead along the momentum.
    #[serde(skip_serializing_if = "is_false")]
    pub nesterov: bool,
    /// SCALE: peak learning rate of Adam on norms and biases.
    #[serde(skip_serializing_if = "is_zero")]
    pub adam_lr: f64,
    /// Which rows of an untied embedding are updated.
    #[serde(skip_serializing_if = "EmbeddingUpdate::is_dense")]
    pub embedding: EmbeddingUpdate,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: Rule::StableSpam,
            lr: 4e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
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
            embedding: EmbeddingUpdate::Dense,
        }
    }
}

impl OptimizerConfig {
    /// A rule with its published numbers; those of Adam's family are the quick-start's.
    pub fn of(name: Rule) -> Self {
        let base = Self { name, ..Self::default() };
        match name {
            Rule::StableSpam | Rule::Spam | Rule::Adamw | Rule::Adam => base,
            Rule::Sgd => Self { lr: 0.1, momentum: 0.9, variant: Variant::Standard, ..base },
            Rule::Lion => Self { lr: 1e-4, beta2: 0.99, variant: Variant::Standard, ..base },
            Rule::Scale => Self { lr: 1e-3, adam_lr: 2e-2, momentum: 0.9, variant: Variant::Standard, ..base },
        }
    }
}

impl OptimizerConfig {
    /// Every mistake that its numbers show, beside optimizer state that is stored so and an embedding that is the head
    /// too or not.
    pub fn problems(&self, state: &StateConfig, tied: bool) -> Problems {
        let mut problems = Problems::default();
        let reason = "must be 0 to 1; 1e-4 to 1e-2 is usual, 0 trains nothing";
        problems.need((0.0..=1.0).contains(&self.lr), "optimizer.lr", number(self.lr), reason);
        let stable = self.name == Rule::StableSpam;
        for (key, value) in [
            ("optimizer.beta1", self.beta1),
            ("optimizer.beta2", self.beta2),
            ("optimizer.gamma1", self.gamma1),
            ("optimizer.gamma2", self.gamma2),
            ("optimizer.gamma3", self.gamma3),
        ] {
            problems.decay(key, value);
        }
        problems.positive("optimizer.eps", self.eps, 1.0, "; 1e-8 is usual");
        self.weight_decay_problems(&mut problems);
        let only_stable = "is read by Stable-SPAM only; remove the key or set optimizer.name=\"stable-spam\"";
        self.variant_problems(&mut problems);
        self.momentum_problems(&mut problems);
        problems.need(self.momentum_decay == 0 || stable, "optimizer.momentum_decay", self.momentum_decay, only_stable);
        let floor = self.momentum_decay_floor;
        problems.need((0.0..=1.0).contains(&floor), "optimizer.momentum_decay_floor", number(floor), "must be 0 to 1");
        let threshold = self.spike_threshold;
        let reason = "must be a finite number above 0; 5000 is usual";
        problems.need(threshold > 0.0 && threshold.is_finite(), "optimizer.spike_threshold", number(threshold), reason);
        let density = self.density;
        problems.positive("optimizer.density", density, 1.0, ": it is the share of the elements that are updated");
        let reason = "below 1 is a mask of SPAM only; set it to 1 or optimizer.name=\"spam\"";
        let masked = density > 0.0 && density < 1.0;
        problems.need(!masked || self.name == Rule::Spam, "optimizer.density", number(density), reason);
        let reason = "leaves out rows without a gradient, and a tied head gives one to every row; set it to \"dense\" or \
                      model.tied=false";
        let sparse = self.embedding == EmbeddingUpdate::Sparse;
        problems.need(!(sparse && tied), "optimizer.embedding", "\"sparse\"", reason);
        self.state_problems(state, &mut problems);
        self.adam_only_problems(state, &mut problems);
        problems
    }

    fn weight_decay_problems(&self, problems: &mut Problems) {
        let &OptimizerConfig { lr, weight_decay, .. } = self;
        let reason = "must be a finite number, 0 or more";
        let sound = weight_decay >= 0.0 && weight_decay.is_finite();
        problems.need(sound, "optimizer.weight_decay", number(weight_decay), reason);
        // At lr * decay = 1 a step erases the weights, beyond it flips their signs.
        let erases = sound && lr > 0.0 && lr <= 1.0 && lr * weight_decay >= 1.0;
        let reason = format_args!("times optimizer.lr = {lr} must stay below 1, or one step erases the weights");
        problems.need(!erases, "optimizer.weight_decay", number(weight_decay), reason);
    }

    /// Second moments that elements share fit rules that ask for nothing but their root.
    fn state_problems(&self, state: &StateConfig, problems: &mut Problems) {
        problems.need(
            !state.feedback || self.beta1 > 0.0,
            "storage.feedback",
            state.feedback,
            "is carried by the momentum, and optimizer.beta1 = 0 has none; set it to false or optimizer.beta1=0.9",
        );
        problems.need(
            !state.feedback || self.lr > 0.0,
            "storage.feedback",
            state.feedback,
            "divides rounding errors by the learning rate; set it to false or optimizer.lr above 0",
        );
        let word = match state.v {
            SecondMoment::Row => "\"row\"",
            SecondMoment::Factored => "\"factored\"",
            SecondMoment::F32 | SecondMoment::Int8 | SecondMoment::Int4 => return,
        };
        problems.need(
            self.name != Rule::Spam,
            "storage.v",
            word,
            "is a mean over many elements, and SPAM tells spikes by each element's own; set it to \"int4\" or \
             optimizer.name=\"stable-spam\"",
        );
        problems.need(
            self.name != Rule::Adam || self.weight_decay == 0.0,
            "storage.v",
            word,
            "is a mean of squared gradients, into which Adam's weight decay would mix the weights; set it to \"int4\" \
             or optimizer.name=\"adamw\"",
        );
        let reason = "leaves rows as they are, and factored second moments mix each with all others; set it to \"dense\" \
                      or storage.v=\"row\"";
        let mixed = self.embedding == EmbeddingUpdate::Sparse && state.v == SecondMoment::Factored;
        problems.need(!mixed, "optimizer.embedding", "\"sparse\"", reason);
    }

    fn variant_problems(&self, problems: &mut Problems) {
        let (word, allowed) = match self.variant {
            Variant::Paper => ("\"paper\"", !matches!(self.name, Rule::Sgd | Rule::Lion)),
            Variant::Reference => ("\"reference\"", self.name == Rule::StableSpam || !self.name.is_adam_like()),
            Variant::Standard => ("\"standard\"", !self.name.is_adam_like()),
        };
        let reason = match self.variant {
            Variant::Paper => "says nothing for this rule; remove the key",
            Variant::Reference => {
                "is read by Stable-SPAM, SGD, Lion and SCALE; remove the key or set optimizer.name=\"stable-spam\""
            }
            Variant::Standard => "is a form of SGD, Lion and SCALE; remove the key",
        };
        problems.need(allowed, "optimizer.variant", word, reason);
    }

    /// Options of SGD and SCALE.
    fn momentum_problems(&self, problems: &mut Problems) {
        let OptimizerConfig { name, momentum, nesterov, adam_lr, .. } = *self;
        let (sgd, scale) = (name == Rule::Sgd, name == Rule::Scale);
        problems.decay("optimizer.momentum", momentum);
        let reason = "is read by SGD and SCALE only; remove the key or set optimizer.name=\"sgd\"";
        problems.need(momentum == 0.0 || sgd || scale, "optimizer.momentum", number(momentum), reason);
        let reason =
            "looks ahead along the momentum of SGD; it needs optimizer.name=\"sgd\" and optimizer.momentum above 0";
        problems.need(!nesterov || (sgd && momentum > 0.0), "optimizer.nesterov", nesterov, reason);
        if scale {
            problems.positive("optimizer.adam_lr", adam_lr, 1.0, "; 1e-3 to 2e-2 is usual");
            let reason = "is a multiple of optimizer.lr, which must then be above 0";
            problems.need(self.lr > 0.0, "optimizer.adam_lr", number(adam_lr), reason);
        } else {
            let reason = "is read by SCALE only; remove the key or set optimizer.name=\"scale\"";
            problems.need(adam_lr == 0.0, "optimizer.adam_lr", number(adam_lr), reason);
        }
    }

    /// What only Adam and the rules with its state can do.
    fn adam_only_problems(&self, state: &StateConfig, problems: &mut Problems) {
        if self.name.is_adam_like() {
            return;
        }
        let reason = "replays rounding errors through Adam's momentum; set it to false or optimizer.name=\"adamw\"";
        problems.need(!state.feedback, "storage.feedback", true, reason);
        let sparse = self.embedding == EmbeddingUpdate::Sparse;
        let reason = "is for Adam and the rules with its state; set it to \"dense\" or optimizer.name=\"adamw\"";
        problems.need(!sparse, "optimizer.embedding", "\"sparse\"", reason);
    }
}

// Keys that older files do not have are written only where they say something.

fn is_zero(value: &f64) -> bool {
    *value == 0.0
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
        match self.m {
            Moment::F32 => StateCodec::F32,
            Moment::Int8 => StateCodec::Int8 { signed: true },
            Moment::Int4 => StateCodec::Int4 { signed: true },
        }
    }
}
