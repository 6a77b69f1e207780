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
//! [`Precision::Bf16`] does at the same places.

use super::sgd::MOMENTUM;
use super::{Optimizer, ParamInfo, StateConfig, StepInfo};
use crate::backend::{Backend, Layout, MatMulArgs, MomentumArgs, Param, Precision, UpdateArgs};
use crate::memory::Span;
use crate::quant::{GroupedShape, StateSpec};
use serde::{Deserialize, Serialize};

/// The quintic's coefficients: of the powers 1, 3 and 5 of X.
const QUINTIC: [f32; 3] = [3.4445, -4.775, 2.0315];
/// Added to the norm of what is divided by it.
const EPS: f32 = 1e-7;

/// How the learning rate depends on a matrix's shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustLr {
    /// `sqrt(max(1, rows / columns))`, as in the published code.
    #[default]
    Original,
    /// `0.2 sqrt(max(rows, columns))`: an update of full rank then has a root mean square of 0.2, about AdamW's, whose
    /// learning rate and weight decay can be kept (arXiv 2502.16982).
    MatchRmsAdamw,
}

impl AdjustLr {
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
    pub ns_steps: u32,
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

/// Float32 numbers that [`newton_schulz`] needs beside a matrix.
pub fn newton_schulz_workspace(shape: GroupedShape, precision: Precision) -> usize {
    let squares = if precision == Precision::F32 { 2 } else { 3 };
    shape.len() + squares * shape.rows.min(shape.cols).pow(2)
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
    steps: u32,
    precision: Precision,
    workspace: Span,
) -> Span {
    let [a, b, c] = QUINTIC;
    let (n, tall) = (rows.min(cols), rows > cols);
    let square = |i: usize| workspace.part(4 * n * n * i, 4 * n * n);
    let (gram, poly) = (square(0), square(1));
    let (mut now, mut next) = (x, workspace.part(workspace.bytes - x.bytes, x.bytes));
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
                let scaled = square(2);
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
