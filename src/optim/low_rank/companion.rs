//! The AdamW that the low-rank rules leave everything but the matrices of blocks to.

use super::second_moment;
use crate::backend::adam::{AdamArgs, SCALARS, state};
use crate::backend::{Backend, Param};
use crate::memory::Span;
use crate::optim::{Optimizer, ParamInfo, StateConfig, StepInfo};
use crate::quant::{StateCodec, StateShape, StateSpec};

/// AdamW as the published code of GaLore has it, and with it Fira and APOLLO: eps is added to the root of the uncorrected
/// second moment, and what decays is the weight after the update.
#[derive(Clone, Copy, Debug)]
pub struct Companion {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, of matrices.
    pub weight_decay: f64,
    /// Whether an all-zero gradient leaves moments as they are.
    pub freezes: bool,
    /// How moments of matrices are stored.
    pub state: StateConfig,
}

impl Optimizer for Companion {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        let v = if param.class.is_vector() { StateCodec::F32 } else { second_moment(self.state.v) };
        vec![
            StateSpec::per_weight(state::M, self.state.momentum_of(param)),
            StateSpec::per_weight(state::V, v),
            StateSpec::floats(state::SCALARS, StateShape::Scalars(SCALARS)),
        ]
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, _: Span, at: &StepInfo) {
        let [c1, c2] = [self.beta1, self.beta2].map(|beta| 1.0 - beta.powf(at.number as f64));
        let decay = if param.decay { at.lr * self.weight_decay } else { 0.0 };
        let args = AdamArgs {
            freeze_on_zero_grad: self.freezes.into(),
            beta1: self.beta1 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            step_size: (at.lr * c2.sqrt() / c1) as f32,
            eps: self.eps as f32,
            post_decay: (1.0 - decay) as f32,
            decay: decay as f32,
            ..AdamArgs::plain(at.seed, at.number)
        };
        backend.adam(param, grad, &args);
    }
}
