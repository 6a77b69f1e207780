//! Muon (Keller Jordan, <https://kellerjordan.github.io/posts/muon>): the momentum's direction, made a matrix whose
//! singular values are all about 1.
//!
//! `m = m + (1 - momentum) (g - m)`, from zero; `u = m`, with `nesterov` `u = g + momentum (m - g)`;
//! `X = u / (||u|| + 1e-7)`; `ns_steps` times, with `A = X X^T`, `X = a X + (b A + c A A) X`;
//! `w = w - lr (s X + decay w)`, where `s` is 1 or what `adjust_lr` says. Of a tall matrix, A is `X^T X` and
//! multiplies X from the right, so that it is as small as it can be.
//!
//! This is for the matrices of blocks; embedding, head and vectors are updated by AdamW with a rate of its own.
//!
//! Products are float32. The published code rounds every number between u and X to bfloat16, which
//! [`Precision::Bf16`] (`variant = "reference"`) does at the same places.

use super::sgd::MOMENTUM;
use super::workspace::Parts;
use super::{
    AdamFamily, Groups, Optimizer, OptimizerConfig, OptimizerContext, ParamClass, ParamInfo, Rule, RuleInfo,
    StateConfig, StepInfo, Variant,
};
use crate::backend::adam::AdamArgs;
use crate::backend::{Backend, Layout, MatMulArgs, MomentumArgs, Param, Precision, UpdateArgs};
use crate::error::Problems;
use crate::memory::Span;
use crate::quant::{GroupedShape, StateSpec};
use serde::{Deserialize, Serialize};

/// The quintic's coefficients: of the powers 1, 3 and 5 of X.
const QUINTIC: [f32; 3] = [3.4445, -4.775, 2.0315];
/// Added to the norm of what is divided by it.
const EPS: f32 = 1e-7;

/// What is known of Muon.
pub(super) const MUON: RuleInfo = RuleInfo {
    title: "Muon",
    keys: &["momentum", "nesterov", "ns_steps", "adjust_lr", "adam_lr", "beta1", "beta2", "eps"],
    own_v: false,
    variants: &[Variant::Standard, Variant::Reference],
    publish: |config, _| publish(config),
    problems: problems_of,
    groups: |config, state| {
        let companion = Companion::new(config, state);
        Groups::new(vec![Box::new(Muon::new(config, state)), Box::new(companion)], group)
    },
};

/// The defaults of the published code, for models of any size: what the runs of published tables had is not known.
fn publish(config: &mut OptimizerConfig) {
    (config.lr, config.weight_decay) = (0.02, 0.0);
    (config.momentum, config.nesterov, config.ns_steps) = (0.95, true, 5);
    (config.adam_lr, config.beta1, config.beta2, config.eps) = (3e-4, 0.9, 0.95, 1e-10);
}

fn problems_of(config: &OptimizerConfig, _: &OptimizerContext, problems: &mut Problems) {
    config.adam_problems(problems);
    problems.decay("optimizer.momentum", config.momentum);
    problems.positive("optimizer.adam_lr", config.adam_lr, 1.0, "; 3e-4 is usual");
    let reason = "must be 1 to 100; 5 is usual";
    problems.need((1..=100).contains(&config.ns_steps), "optimizer.ns_steps", config.ns_steps, reason);
}

/// The matrices of blocks, and all others.
fn group(param: &ParamInfo) -> u8 {
    u8::from(!matches!(param.class, ParamClass::QueryOrKey | ParamClass::Matrix))
}

/// How the learning rate depends on a matrix's shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdjustLr {
    /// `sqrt(max(1, rows / columns))`, as in the published code.
    #[default]
    Original,
    /// `0.2 sqrt(max(rows, columns))`: an update of full rank then has a root mean square of 0.2, about AdamW's, whose
    /// learning rate and weight decay can be kept (arXiv 2502.16982).
    MatchRmsAdamw,
}

impl AdjustLr {
    /// Whether it is the default, which files without Muon do not have as a key.
    pub(super) fn is_original(&self) -> bool {
        *self == Self::Original
    }

    /// The factor of a matrix.
    fn factor(self, rows: usize, cols: usize) -> f64 {
        let (rows, cols) = (rows as f64, cols as f64);
        match self {
            Self::Original => (rows / cols).max(1.0).sqrt(),
            Self::MatchRmsAdamw => 0.2 * rows.max(cols).sqrt(),
        }
    }
}

/// Muon's part: the matrices of blocks.
pub struct Muon {
    /// What is kept of the momentum.
    pub momentum: f64,
    /// Whether the momentum is looked ahead along.
    pub nesterov: bool,
    /// Iterations of Newton and Schulz.
    pub ns_steps: u64,
    /// What they round to.
    pub precision: Precision,
    /// How the learning rate depends on the shape.
    pub adjust_lr: AdjustLr,
    /// Decoupled, at the learning rate that is not adjusted.
    pub weight_decay: f64,
    /// Whether an all-zero gradient leaves the momentum as it is.
    pub freezes: bool,
    /// How the momentum is stored.
    pub state: StateConfig,
}

impl Muon {
    /// With the numbers of a configuration.
    pub fn new(config: &OptimizerConfig, state: StateConfig) -> Self {
        let &OptimizerConfig { momentum, nesterov, ns_steps, adjust_lr, weight_decay, .. } = config;
        let (freezes, precision) = match config.variant {
            Variant::Reference => (false, Precision::Bf16),
            Variant::Standard | Variant::Paper => (true, Precision::F32),
        };
        Self { momentum, nesterov, ns_steps, precision, adjust_lr, weight_decay, freezes, state }
    }
}

impl Optimizer for Muon {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        vec![StateSpec::per_weight(MOMENTUM, self.state.momentum_of(param))]
    }

    fn workspace(&self, param: &ParamInfo) -> usize {
        newton_schulz_workspace(param.shape, self.precision)
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, workspace: Span, at: &StepInfo) {
        backend.begin_update(grad, self.freezes);
        let momentum = param.state.get(MOMENTUM).expect("declared above");
        let (keep, add) = (self.momentum as f32, (1.0 - self.momentum) as f32);
        let (of_x, of_new) = if self.nesterov { (add, keep) } else { (0.0, 1.0) };
        backend.momentum(param, momentum, grad, &MomentumArgs { keep, add, of_x, of_new, ..at.momentum() });
        let (rows, cols) = (param.weight.shape.rows, param.weight.shape.cols);
        let direction = newton_schulz(backend, grad, (rows, cols), self.ns_steps, self.precision, workspace);
        let mut lr = at.lr;
        let factor = self.adjust_lr.factor(rows, cols);
        match self.precision {
            Precision::F32 => lr *= factor,
            // The published code multiplies what is bfloat16 still.
            Precision::Bf16 => backend.scale(direction, factor as f32, self.precision),
        }
        let decay = if param.decay { at.lr * self.weight_decay } else { 0.0 };
        backend.apply_update(param, direction, &UpdateArgs { lr: lr as f32, decay: decay as f32, ..at.update() });
    }
}

/// Muon's other part: AdamW at a rate of its own, which follows the same schedule.
struct Companion {
    rule: AdamFamily,
    /// Its peak rate, relative to that of the matrices.
    share: f64,
    /// Whether an all-zero gradient leaves moments as they are.
    freezes: bool,
}

impl Companion {
    fn new(config: &OptimizerConfig, state: StateConfig) -> Self {
        let adamw = OptimizerConfig { name: Rule::Adamw, lr: config.adam_lr, ..config.clone() };
        // At a rate of 0 nothing moves, AdamW's part included.
        let share = if config.lr > 0.0 { config.adam_lr / config.lr } else { 0.0 };
        Self { rule: AdamFamily::new(&adamw, state), share, freezes: config.variant == Variant::Standard }
    }
}

impl Optimizer for Companion {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        self.rule.state(param)
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, _: Span, at: &StepInfo) {
        let args = self.rule.args(param, &StepInfo { lr: at.lr * self.share, ..*at });
        backend.adam(param, grad, &AdamArgs { freeze_on_zero_grad: self.freezes.into(), ..args });
    }
}

/// Float32 numbers that [`newton_schulz`] needs beside a matrix.
pub fn newton_schulz_workspace(shape: GroupedShape, precision: Precision) -> usize {
    Parts::total(parts(shape.rows, shape.cols, precision))
}

/// Another matrix of the shape, and squares of its smaller side.
fn parts(rows: usize, cols: usize, precision: Precision) -> [usize; 4] {
    let square = rows.min(cols).pow(2);
    [rows * cols, square, square, if precision == Precision::F32 { 0 } else { square }]
}

/// `x`, float32 `[rows, cols]`, divided by its norm and then `steps` times `a x + b A x + c A A x` with `A = x x^T`,
/// which brings its singular values near 1; of a tall matrix `A` is `x^T x` and multiplies from the right. The result
/// lies where the returned span says, in `x` or in the workspace; both are overwritten.
///
/// # Panics
/// If the workspace is too small.
pub fn newton_schulz(
    backend: &mut dyn Backend,
    x: Span,
    (rows, cols): (usize, usize),
    steps: u64,
    precision: Precision,
    workspace: Span,
) -> Span {
    let [a, b, c] = QUINTIC;
    let (n, tall) = (rows.min(cols), rows > cols);
    let [other, gram, poly, scaled] = Parts::split(workspace, parts(rows, cols, precision));
    let (mut now, mut next) = (x, other);
    if precision == Precision::Bf16 {
        backend.scale(now, 1.0, precision);
    }
    backend.unit_norm(now, EPS, precision);
    let squared = |a, b, out| MatMulArgs { a, b, out, rows: n, inner: n, cols: n, alpha: 1.0, beta: 0.0, precision };
    for _ in 0..steps {
        let (left, right) = ((now, Layout::Plain), (now, Layout::Transposed));
        let (left, right) = if tall { (right, left) } else { (left, right) };
        backend.matmul(&MatMulArgs { inner: rows.max(cols), ..squared(left, right, gram) });
        // poly = b A + c A A; what is bfloat16 rounds c A before it multiplies it.
        backend.copy(gram, poly);
        let plain = |span| (span, Layout::Plain);
        match precision {
            Precision::F32 => {
                backend.matmul(&MatMulArgs { alpha: c, beta: b, ..squared(plain(gram), plain(gram), poly) });
            }
            Precision::Bf16 => {
                backend.copy(gram, scaled);
                backend.scale(scaled, c, precision);
                backend.matmul(&MatMulArgs { beta: b, ..squared(plain(scaled), plain(gram), poly) });
            }
        }
        backend.copy(now, next);
        // Rounded, poly is no longer symmetric.
        let (left, right) = if tall { (plain(now), (poly, Layout::Transposed)) } else { (plain(poly), plain(now)) };
        backend.matmul(&MatMulArgs { rows, cols, beta: a, ..squared(left, right, next) });
        (now, next) = (next, now);
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Moment, SecondMoment};
    use crate::quant::StateCodec;

    /// 24 x 40: a momentum for a matrix, two moments and three numbers for an embedding.
    #[test]
    fn a_matrix_has_one_number_of_state_for_each_weight() {
        let shape = GroupedShape::new(24, 40, 32);
        for (m, codec) in [(Moment::F32, StateCodec::F32), (Moment::Int4, StateCodec::Int4 { signed: true })] {
            let state = StateConfig { m, v: SecondMoment::F32, feedback: false };
            let groups = OptimizerConfig::of(Rule::Muon).groups(state);
            let of = |class| groups.declare(&ParamInfo { class, shape, head_dim: 8 });
            assert_eq!(of(ParamClass::Matrix), (0, vec![StateSpec::per_weight(MOMENTUM, codec)]));
            assert_eq!(of(ParamClass::QueryOrKey), of(ParamClass::Matrix));
            for class in [ParamClass::Embedding, ParamClass::TiedEmbedding, ParamClass::Head, ParamClass::Norm] {
                let (group, specs) = of(class);
                assert_eq!((group, specs.len()), (1, 3), "{class:?}");
            }
            let bytes: usize = of(ParamClass::Matrix).1.iter().flat_map(|spec| spec.format.bytes(shape)).sum();
            // Of int4: nibbles of 24 rows that are padded to 64, and a scale of two bytes for each group of 32.
            assert_eq!(bytes, if m == Moment::F32 { 4 * 960 } else { 24 * 64 / 2 + 24 * 2 * 2 });
        }
    }

    #[test]
    fn the_rate_depends_on_the_shape_as_published() {
        assert_eq!(AdjustLr::Original.factor(24, 96), 1.0);
        assert_eq!(AdjustLr::Original.factor(96, 24), 2.0);
        assert_eq!(AdjustLr::MatchRmsAdamw.factor(100, 25), 2.0);
        assert_eq!(AdjustLr::MatchRmsAdamw.factor(25, 100), 2.0);
    }
}
