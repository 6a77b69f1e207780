//! Lion (arXiv 2302.06675): `d = sign(beta1 m + (1 - beta1) g)`, `m = beta2 m + (1 - beta2) g`,
//! `w = w - lr (d + decay w)`.

use super::sgd::MOMENTUM;
use super::{Groups, Optimizer, OptimizerConfig, ParamInfo, RuleInfo, StateConfig, StepInfo, Variant};
use crate::backend::{Backend, MomentumArgs, Param, UpdateArgs};
use crate::memory::Span;
use crate::quant::StateSpec;

/// What is known of Lion.
pub(super) const LION: RuleInfo = RuleInfo {
    title: "Lion",
    keys: &["beta1", "beta2"],
    own_v: false,
    variants: &[Variant::Standard, Variant::Reference],
    publish: |config, _| (config.lr, config.beta2) = (1e-4, 0.99),
    problems: |config, _, problems| {
        problems.decay("optimizer.beta1", config.beta1);
        problems.decay("optimizer.beta2", config.beta2);
    },
    groups: |config, state| Groups::one(Box::new(Lion::new(config, state))),
};

/// Lion.
pub struct Lion {
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
    freezes: bool,
    state: StateConfig,
}

impl Lion {
    /// With `beta1`, `beta2` and `weight_decay` of a configuration.
    pub fn new(config: &OptimizerConfig, state: StateConfig) -> Self {
        let OptimizerConfig { beta1, beta2, weight_decay, .. } = *config;
        Self { beta1, beta2, weight_decay, freezes: config.variant == Variant::Standard, state }
    }
}

impl Optimizer for Lion {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        vec![StateSpec::per_weight(MOMENTUM, self.state.momentum_of(param))]
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, _: Span, at: &StepInfo) {
        backend.begin_update(grad, self.freezes);
        let momentum = param.state.get(MOMENTUM).expect("declared above");
        let args = MomentumArgs {
            keep: self.beta2 as f32,
            add: (1.0 - self.beta2) as f32,
            of_x: (1.0 - self.beta1) as f32,
            of_old: self.beta1 as f32,
            sign: 1,
            ..at.momentum()
        };
        backend.momentum(param, momentum, grad, &args);
        let decay = if param.decay { at.lr * self.weight_decay } else { 0.0 };
        backend.apply_update(param, grad, &UpdateArgs { lr: at.lr as f32, decay: decay as f32, ..at.update() });
    }
}
