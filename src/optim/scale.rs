//! SCALE (arXiv 2506.16659), in the form of the authors' code, which made the published tables: each normalized vector
//! moves by a root mean square of exactly the learning rate.
//!
//! | parameter | direction |
//! | --- | --- |
//! | matrix of a block | the gradient, each output row divided by its root mean square |
//! | head | a moving average of the gradients, likewise |
//! | embedding | the gradient, each hidden column divided by its root mean square |
//! | vector | Adam with a rate of its own, eps added to the root of the uncorrected second moment |
//!
//! A tied embedding is what makes logits, so it is treated as the head; the authors' models are untied. The paper
//! (`variant = "paper"`) divides by the norm rather than by the root mean square.

use super::sgd::MOMENTUM;
use super::{Groups, Optimizer, OptimizerConfig, ParamClass, ParamInfo, RuleInfo, StateConfig, StepInfo, Variant};
use crate::backend::adam::{AdamArgs, SCALARS, state};
use crate::backend::{Axis, Backend, MomentumArgs, Param, UpdateArgs};
use crate::error::Problems;
use crate::memory::Span;
use crate::quant::{StateCodec, StateShape, StateSpec};

/// The smallest root mean square that is divided by.
const FLOOR: f32 = 1e-8;

/// What is known of SCALE.
pub(super) const SCALE: RuleInfo = RuleInfo {
    title: "SCALE",
    keys: &["momentum", "adam_lr", "beta1", "beta2", "eps"],
    own_v: false,
    variants: &[Variant::Standard, Variant::Reference, Variant::Paper],
    publish,
    problems: |config, _, problems| problems_of(config, problems),
    groups: |config, state| Groups::new(Scale::groups(config, state), Scale::group),
};

/// The rates of the paper's runs.
fn publish(config: &mut OptimizerConfig, preset: &str) {
    config.momentum = 0.9;
    (config.lr, config.adam_lr) = match preset {
        "1b" => (2e-4, 1e-3),
        // 3b is not published; it has the more careful of its neighbours' rates.
        "3b" | "7b" => (1e-4, 1e-3),
        _ => (1e-3, 2e-2),
    };
}

fn problems_of(config: &OptimizerConfig, problems: &mut Problems) {
    config.adam_problems(problems);
    problems.decay("optimizer.momentum", config.momentum);
    problems.positive("optimizer.adam_lr", config.adam_lr, 1.0, "; 1e-3 to 2e-2 is usual");
}

/// The numbers of a configuration that all of SCALE's groups share.
#[derive(Clone, Copy)]
struct Numbers {
    weight_decay: f64,
    momentum: f64,
    /// Adam's peak rate, relative to the others'.
    adam_share: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    variant: Variant,
    state: StateConfig,
}

/// One of SCALE's groups.
pub struct Scale {
    part: Part,
    numbers: Numbers,
}

/// What a group is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Inner,
    Head,
    Embedding,
    Vector,
}

impl Scale {
    /// The groups, in the order of [`Scale::group`].
    pub fn groups(config: &OptimizerConfig, state: StateConfig) -> Vec<Box<dyn Optimizer>> {
        let numbers = Numbers {
            weight_decay: config.weight_decay,
            momentum: config.momentum,
            // At a rate of 0 nothing moves, Adam's part included.
            adam_share: if config.lr > 0.0 { config.adam_lr / config.lr } else { 0.0 },
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            variant: config.variant,
            state,
        };
        let group = |part| Box::new(Self { part, numbers }) as Box<dyn Optimizer>;
        [Part::Inner, Part::Head, Part::Embedding, Part::Vector].map(group).into()
    }

    /// The group of a parameter.
    pub fn group(param: &ParamInfo) -> u8 {
        match param.class {
            ParamClass::QueryOrKey | ParamClass::Matrix => 0,
            ParamClass::Head | ParamClass::TiedEmbedding => 1,
            ParamClass::Embedding => 2,
            ParamClass::Norm | ParamClass::Bias => 3,
        }
    }

    /// Adam's constants of a step.
    fn adam(&self, at: &StepInfo, decays: bool) -> AdamArgs {
        let Numbers { beta1, beta2, .. } = self.numbers;
        let correction = |beta: f64| 1.0 - beta.powf(at.number as f64);
        let lr = at.lr * self.numbers.adam_share;
        AdamArgs {
            freeze_on_zero_grad: (self.numbers.variant == Variant::Standard).into(),
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            step_size: (lr * correction(beta2).sqrt() / correction(beta1)) as f32,
            eps: self.numbers.eps as f32,
            decay: if decays { (lr * self.numbers.weight_decay) as f32 } else { 0.0 },
            ..AdamArgs::plain(at.seed, at.number)
        }
    }
}

impl Optimizer for Scale {
    fn state(&self, _: &ParamInfo) -> Vec<StateSpec> {
        match self.part {
            Part::Inner | Part::Embedding => Vec::new(),
            Part::Head => vec![StateSpec::per_weight(MOMENTUM, self.numbers.state.signed())],
            Part::Vector => vec![
                StateSpec::per_weight(state::M, StateCodec::F32),
                StateSpec::per_weight(state::V, StateCodec::F32),
                StateSpec::floats(state::SCALARS, StateShape::Scalars(SCALARS)),
            ],
        }
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, _: Span, at: &StepInfo) {
        if self.part == Part::Vector {
            return backend.adam(param, grad, &self.adam(at, param.decay));
        }
        let (rows, cols) = (param.weight.shape.rows, param.weight.shape.cols);
        backend.begin_update(grad, self.numbers.variant == Variant::Standard);
        if let Some(momentum) = param.state.get(MOMENTUM) {
            let keep = self.numbers.momentum;
            let (keep, add) = (keep as f32, (1.0 - keep) as f32);
            backend.momentum(param, momentum, grad, &MomentumArgs { keep, add, of_new: 1.0, ..at.momentum() });
        }
        let (axis, length) = if self.part == Part::Embedding { (Axis::Cols, rows) } else { (Axis::Rows, cols) };
        backend.normalize(grad, rows, cols, axis, FLOOR);
        // A norm is the root of the length times the root mean square.
        let share = if self.numbers.variant == Variant::Paper { (length as f64).sqrt() } else { 1.0 };
        let decay = at.lr * self.numbers.weight_decay;
        let args = UpdateArgs { lr: (at.lr / share) as f32, decay: decay as f32, ..at.update() };
        backend.apply_update(param, grad, &args);
    }
}
