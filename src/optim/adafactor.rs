//! Adafactor (arXiv 1804.04235), as PyTorch computes it: second moments of a matrix are the product of its rows' and its
//! columns', there is no first moment, and a step is relative to the weight.
//!
//! With `b = t^beta2_decay`: `r = (1 - b) r + b mean(g^2)` over rows, `c` likewise over columns, `v = r c / mean(r)`; of a
//! vector v has an element each. `u = g / sqrt(max(v, eps^2))`, `u = u / max(1, rms(u) / clip_threshold)`, and
//! `w = w - min(lr, 1 / sqrt(t)) max(eps2, rms(w)) u - lr decay w`.

use super::workspace::Parts;
use super::{Groups, Optimizer, OptimizerConfig, ParamInfo, RuleInfo, StepInfo, Variant};
use crate::backend::adam::state;
use crate::backend::{Axis, Backend, DivisorArgs, MomentumArgs, Param, RelativeStepArgs, UpdateArgs};
use crate::error::{Problems, number};
use crate::memory::Span;
use crate::quant::{BLOCK, GroupedShape, StateCodec, StateShape, StateSpec};

/// What is known of Adafactor.
pub(super) const ADAFACTOR: RuleInfo = RuleInfo {
    title: "Adafactor",
    keys: &["beta2_decay", "eps", "eps2", "clip_threshold"],
    own_v: false,
    variants: &[Variant::Standard, Variant::Reference],
    publish: |config, _| {
        // PyTorch's: eps is the distance from 1 to the next float32.
        (config.lr, config.beta2_decay, config.eps) = (0.01, -0.8, f64::from(f32::EPSILON));
        (config.eps2, config.clip_threshold) = (1e-3, 1.0);
    },
    problems: |config, _, problems| problems_of(config, problems),
    groups: |config, _| Groups::one(Box::new(Adafactor::new(config))),
};

fn problems_of(config: &OptimizerConfig, problems: &mut Problems) {
    let decay = config.beta2_decay;
    let reason = "must be below 0 and at least -1; -0.8 is usual";
    problems.need((-1.0..0.0).contains(&decay), "optimizer.beta2_decay", number(decay), reason);
    problems.positive("optimizer.eps", config.eps, 1.0, "; 1e-7 is usual");
    problems.positive("optimizer.eps2", config.eps2, 1.0, "; 1e-3 is usual");
    problems.positive("optimizer.clip_threshold", config.clip_threshold, 1e6, "; 1 is usual");
}

/// Adafactor.
#[derive(Clone, Copy, Debug)]
pub struct Adafactor {
    /// The exponent of the step's number that new gradients enter the second moments by, below 0.
    pub beta2_decay: f64,
    /// The root of the least second moment, and the least mean of the rows'.
    pub eps: f64,
    /// The least root mean square that a weight counts as.
    pub eps2: f64,
    /// The root mean square that directions are limited to.
    pub clip_threshold: f64,
    /// Decoupled weight decay, of matrices.
    pub weight_decay: f64,
    /// Whether an all-zero gradient leaves a parameter's state as it is.
    pub freezes: bool,
}

impl Adafactor {
    /// With the numbers of a configuration.
    pub fn new(config: &OptimizerConfig) -> Self {
        let OptimizerConfig { beta2_decay, eps, eps2, clip_threshold, weight_decay, .. } = *config;
        Self { beta2_decay, eps, eps2, clip_threshold, weight_decay, freezes: config.variant == Variant::Standard }
    }

    /// Numbers of the parts of the workspace: of rows, of columns, of blocks of the weight, and two norms.
    fn parts(g: GroupedShape) -> [usize; 5] {
        [g.rows, g.cols, g.padded_len() / BLOCK, 1, 1]
    }
}

impl Optimizer for Adafactor {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        if param.class.is_vector() {
            return vec![StateSpec::per_weight(state::V, StateCodec::F32)];
        }
        vec![StateSpec::floats(state::V_ROWS, StateShape::PerRow), StateSpec::floats(state::V_COLS, StateShape::PerCol)]
    }

    fn workspace(&self, param: &ParamInfo) -> usize {
        Parts::total(Self::parts(param.shape))
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, workspace: Span, at: &StepInfo) {
        let g = param.weight.shape;
        let [of_rows, of_cols, blocks, of_weight, factor] = Parts::split(workspace, Self::parts(g));
        let share = (at.number as f64).powf(self.beta2_decay);
        let recurrence = |count: usize| MomentumArgs {
            keep: (1.0 - share) as f32,
            add: (share / count as f64) as f32,
            of_new: 1.0,
            ..at.momentum()
        };
        backend.begin_update(grad, self.freezes);
        let of_columns = param.state.get(state::V_COLS).or(param.state.get(state::V)).expect("declared above");
        backend.squares(grad, g.rows, g.cols, Axis::Cols, of_cols);
        backend.momentum(param, of_columns, of_cols, &recurrence(g.rows));
        let rows = match param.state.get(state::V_ROWS) {
            None => Span::NONE,
            Some(v_rows) => {
                backend.squares(grad, g.rows, g.cols, Axis::Rows, of_rows);
                backend.momentum(param, v_rows, of_rows, &recurrence(g.cols));
                backend.divide_by_mean(of_cols, of_rows, self.eps as f32);
                of_rows
            }
        };
        let floor = (self.eps * self.eps).max(f64::from(f32::MIN_POSITIVE)) as f32;
        let args = DivisorArgs { rows: g.rows as u32, cols: g.cols as u32, run: 1, root: 1.0, floor, eps: 0.0 };
        backend.divide_by_root(grad, rows, of_cols, &args);

        backend.weight_squares(param, blocks);
        backend.sums(blocks, g.padded_cols() / BLOCK, of_rows);
        backend.sums(of_rows, g.rows, of_weight);
        backend.squares(grad, g.rows, g.cols, Axis::Rows, of_rows);
        backend.sums(of_rows, g.rows, factor);
        let args = RelativeStepArgs {
            count: g.len() as f32,
            least: self.eps2 as f32,
            rate: at.lr.min(1.0 / (at.number as f64).sqrt()) as f32,
            threshold: self.clip_threshold as f32,
        };
        backend.relative_step(factor, of_weight, &args);
        backend.scale_axis(grad, 1, g.len(), Axis::Rows, factor);
        let decay = if param.decay { at.lr * self.weight_decay } else { 0.0 };
        backend.apply_update(param, grad, &UpdateArgs { lr: 1.0, decay: decay as f32, ..at.update() });
    }
}
