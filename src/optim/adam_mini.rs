//! Adam-mini (arXiv 2406.16793), as the authors' code computes it: Adam whose second moments are means over blocks.
//!
//! | parameter | elements of a second moment |
//! | --- | --- |
//! | queries, keys | a head |
//! | other matrices, embedding, head | a row |
//! | norm | the vector |
//! | bias | one: Adam |
//!
//! `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) mean(g^2)`,
//! `w = w - lr (m / c1) / (sqrt(v / c2) + eps) - lr decay w`, with `c = 1 - beta^t`.

use super::workspace::Parts;
use super::{Groups, Optimizer, OptimizerConfig, ParamClass, ParamInfo, RuleInfo, StateConfig, StepInfo, Variant};
use crate::backend::adam::state;
use crate::backend::{Axis, Backend, DirectionArgs, DivisorArgs, MomentumArgs, Param, StateTensor, UpdateArgs};
use crate::memory::Span;
use crate::quant::{StateCodec, StateShape, StateSpec};

/// What is known of Adam-mini.
pub(super) const ADAM_MINI: RuleInfo = RuleInfo {
    title: "Adam-mini",
    keys: &["beta1", "beta2", "eps"],
    own_v: false,
    variants: &[Variant::Standard, Variant::Reference],
    // The paper has AdamW's.
    publish: |_, _| (),
    problems: |config, _, problems| config.adam_problems(problems),
    groups: |config, state| Groups::one(Box::new(AdamMini::new(config, state))),
};

/// Means of squares over blocks that are no rows.
const V_BLOCKS: &str = "v_blocks";

/// Adam-mini.
#[derive(Clone, Copy, Debug)]
pub struct AdamMini {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, of matrices.
    pub weight_decay: f64,
    /// Whether an all-zero gradient leaves a parameter's state as it is.
    pub freezes: bool,
    /// How first moments of matrices are stored.
    pub state: StateConfig,
}

impl AdamMini {
    /// With the numbers of a configuration.
    pub fn new(config: &OptimizerConfig, state: StateConfig) -> Self {
        let OptimizerConfig { beta1, beta2, eps, weight_decay, .. } = *config;
        Self { beta1, beta2, eps, weight_decay, freezes: config.variant == Variant::Standard, state }
    }
}

/// The second moments of a parameter: how many rows share one, and how many there are.
fn blocks(v: &StateTensor, rows: usize) -> (usize, usize) {
    let count = v.data.bytes / 4;
    (rows.div_ceil(count), count)
}

impl Optimizer for AdamMini {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        let m = StateSpec::per_weight(state::M, self.state.momentum_of(param));
        let blocks = |count| StateSpec::floats(V_BLOCKS, StateShape::Scalars(count));
        let v = match param.class {
            ParamClass::QueryOrKey => blocks(param.shape.rows.div_ceil(param.head_dim)),
            ParamClass::Matrix | ParamClass::Embedding | ParamClass::TiedEmbedding | ParamClass::Head => {
                StateSpec::floats(state::V_ROWS, StateShape::PerRow)
            }
            ParamClass::Norm => blocks(1),
            ParamClass::Bias => StateSpec::per_weight(state::V, StateCodec::F32),
        };
        vec![m, v]
    }

    /// Sums of the squares of rows, and of blocks.
    fn workspace(&self, param: &ParamInfo) -> usize {
        Parts::total([param.shape.rows; 2])
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, workspace: Span, at: &StepInfo) {
        let [c1, c2] = [self.beta1, self.beta2].map(|beta| 1.0 - beta.powf(at.number as f64));
        let one_minus = |beta: f64| (1.0 - beta) as f32;
        let (root, eps) = ((1.0 / c2.sqrt()) as f32, self.eps as f32);
        let m = param.state.get(state::M).expect("declared above");
        backend.begin_update(grad, self.freezes);
        if let Some(v) = param.state.get(state::V) {
            let args = DirectionArgs {
                seed: at.seed,
                number: at.number as u32,
                beta1: self.beta1 as f32,
                one_minus_beta1: one_minus(self.beta1),
                beta2: self.beta2 as f32,
                one_minus_beta2: one_minus(self.beta2),
                factor: 1.0,
                root,
                eps,
            };
            backend.adam_direction(param, m, v, grad, &args);
        } else {
            let v = param.state.get(state::V_ROWS).or(param.state.get(V_BLOCKS)).expect("declared above");
            let (rows, cols) = (param.weight.shape.rows, param.weight.shape.cols);
            let (run, count) = blocks(v, rows);
            let [of_rows, of_blocks] = Parts::split(workspace, [rows, count]);
            backend.squares(grad, rows, cols, Axis::Rows, of_rows);
            backend.sums(of_rows, run, of_blocks);
            let share = (1.0 - self.beta2) / (run * cols) as f64;
            let recurrence = MomentumArgs { keep: self.beta2 as f32, add: share as f32, of_new: 1.0, ..at.momentum() };
            backend.momentum(param, v, of_blocks, &recurrence);
            let (keep, add) = (self.beta1 as f32, one_minus(self.beta1));
            backend.momentum(param, m, grad, &MomentumArgs { keep, add, of_new: 1.0, ..at.momentum() });
            let (rows, cols, run) = (rows as u32, cols as u32, run as u32);
            let args = DivisorArgs { rows, cols, run, root, floor: 0.0, eps };
            backend.divide_by_root(grad, of_blocks, Span::NONE, &args);
        }
        let decay = if param.decay { at.lr * self.weight_decay } else { 0.0 };
        let args = UpdateArgs { lr: (at.lr / c1) as f32, decay: decay as f32, ..at.update() };
        backend.apply_update(param, grad, &args);
    }
}
