//! Stochastic gradient descent with momentum, as PyTorch computes it.
//!
//! `g = g + decay w`; with momentum `m = g` in the first step, then `m = momentum m + g`; the direction is `m`, with
//! `nesterov` `g + momentum m`, without momentum `g`; `w = w - lr d`.

use super::{Groups, Optimizer, OptimizerConfig, ParamInfo, RuleInfo, StateConfig, StepInfo, Variant};
use crate::backend::{Backend, MomentumArgs, Param, UpdateArgs};
use crate::error::Problems;
use crate::memory::Span;
use crate::quant::StateSpec;

/// The momentum's name; a file has it as its first moment.
pub(super) const MOMENTUM: &str = "m";

/// What is known of SGD.
pub(super) const SGD: RuleInfo = RuleInfo {
    title: "SGD",
    keys: &["momentum", "nesterov"],
    own_v: false,
    variants: &[Variant::Standard, Variant::Reference],
    publish: |config, _| (config.lr, config.momentum) = (0.1, 0.9),
    problems: |config, _, problems| problems_of(config, problems),
    groups: |config, state| Groups::one(Box::new(Sgd::new(config, state))),
};

fn problems_of(config: &OptimizerConfig, problems: &mut Problems) {
    problems.decay("optimizer.momentum", config.momentum);
    let reason = "looks ahead along the momentum, and there is none; set optimizer.momentum=0.9 too";
    problems.need(!config.nesterov || config.momentum > 0.0, "optimizer.nesterov", true, reason);
}

/// SGD.
pub struct Sgd {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
    freezes: bool,
    state: StateConfig,
}

impl Sgd {
    /// With `momentum`, `nesterov` and `weight_decay` of a configuration.
    pub fn new(config: &OptimizerConfig, state: StateConfig) -> Self {
        Self {
            momentum: config.momentum,
            nesterov: config.nesterov,
            weight_decay: config.weight_decay,
            freezes: config.variant == Variant::Standard,
            state,
        }
    }
}

impl Optimizer for Sgd {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        if self.momentum == 0.0 {
            return Vec::new();
        }
        vec![StateSpec::per_weight(MOMENTUM, self.state.momentum_of(param))]
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, _: Span, at: &StepInfo) {
        backend.begin_update(grad, self.freezes);
        if self.weight_decay > 0.0 && param.decay {
            backend.add_weight(param, grad, self.weight_decay as f32);
        }
        if let Some(momentum) = param.state.get(MOMENTUM) {
            let (of_x, of_new) = if self.nesterov { (1.0, self.momentum as f32) } else { (0.0, 1.0) };
            // The state of the first step is zero, so keeping a share of it is starting with the gradient.
            let args = MomentumArgs { keep: self.momentum as f32, add: 1.0, of_x, of_new, ..at.momentum() };
            backend.momentum(param, momentum, grad, &args);
        }
        backend.apply_update(param, grad, &UpdateArgs { lr: at.lr as f32, ..at.update() });
    }
}
