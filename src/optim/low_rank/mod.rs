//! Rules that look at a matrix's gradient through a projection of low rank: GaLore, Fira, APOLLO and APOLLO-Mini.
//!
//! Of a gradient `[rows, cols]` the shorter side is projected (of a square matrix the columns): with `side` the shorter
//! and `long` the other, the projection is `P [rank, side]` and the projected gradient `R [rank, long]`, which is `P G` or
//! `P G^T`. All of them lie with the long axis along rows, so that groups of compact state are full. Adam's moments are
//! those of R.
//!
//! This is for the matrices of blocks; everything else is updated by AdamW at the same rate, see [`Companion`].

mod apollo;
mod companion;
mod dense;
mod galore;
pub(super) mod info;
mod subspace;

pub use apollo::{Apollo, Norms};
pub use companion::Companion;
pub use galore::{GaLore, Residual};

use super::workspace::Parts;
use super::{ParamInfo, StateConfig, StepInfo, Variant};
use crate::backend::{
    Axis, Backend, DirectionArgs, Layout, MatMulArgs, Param, Precision, SecondMoment, StateTensor, UpdateArgs,
};
use crate::memory::Span;
use crate::quant::{GroupedShape, StateCodec, StateFormat, StateShape, StateSpec};

/// First moment of the projected gradient.
pub const PROJECTED_M: &str = "projected_m";
/// Second moment of the projected gradient.
pub const PROJECTED_V: &str = "projected_v";
/// The projection, `[rank, side]`.
pub const PROJECTION: &str = "projection";
/// What the norm-growth limiter keeps: a norm, and whether there is one.
pub const LIMITER: &str = "limiter";

/// How much the norm of a direction may grow from one step to the next.
const GROWTH: f32 = 1.01;
/// Added to norms that are divided by, in the published code.
const NORM_EPS: f32 = 1e-8;

/// What the low-rank rules have in common.
#[derive(Clone, Copy, Debug)]
pub struct LowRank {
    /// Rows of the projection, at most the shorter side of every matrix.
    pub rank: usize,
    /// Steps from one projection to the next.
    pub gap: u64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Which reading.
    pub variant: Variant,
    /// How moments are stored; second moments have a number for each element.
    pub state: StateConfig,
}

impl LowRank {
    /// The moments of a parameter's projected gradient.
    fn moments(&self, param: &ParamInfo) -> Vec<StateSpec> {
        let shape = Projected::of(param.shape, self.rank).shape();
        let spec = |name, codec| StateSpec { name, format: StateFormat::new(codec, shape) };
        vec![spec(PROJECTED_M, self.state.signed()), spec(PROJECTED_V, second_moment(self.state.v))]
    }

    /// Whether an all-zero gradient leaves a parameter's state as it is.
    fn freezes(&self) -> bool {
        self.variant == Variant::Standard
    }

    /// The number of the projection in use, from 0, and whether it is new.
    fn refresh(&self, at: &StepInfo) -> (u64, bool) {
        ((at.number - 1) / self.gap, (at.number - 1).is_multiple_of(self.gap))
    }

    /// Adam's direction of the projected gradient, in its place: `factor m / (root sqrt(v) + eps)`.
    fn direct(&self, backend: &mut dyn Backend, param: &Param, r: Span, at: &StepInfo, [factor, root]: [f64; 2]) {
        let [m, v] = [PROJECTED_M, PROJECTED_V].map(|name| tensor(param, name));
        let args = DirectionArgs {
            seed: at.seed,
            number: at.number as u32,
            beta1: self.beta1 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            factor: factor as f32,
            root: root as f32,
            eps: self.eps as f32,
        };
        backend.adam_direction(param, m, v, r, &args);
    }

    fn corrections(&self, at: &StepInfo) -> [f64; 2] {
        [self.beta1, self.beta2].map(|beta| 1.0 - beta.powf(at.number as f64))
    }

    /// What corrects the bias of both moments, where eps is added to the root of the uncorrected second one.
    fn correction(&self, at: &StepInfo) -> f64 {
        let [c1, c2] = self.corrections(at);
        c2.sqrt() / c1
    }

    /// `w = w - size direction`, then `w = w - lr decay w` of the updated weight, as the published code does; the papers
    /// decay what the weight was.
    fn apply(&self, backend: &mut dyn Backend, param: &Param, direction: Span, at: &StepInfo, size: f64) {
        let decay = if param.decay { at.lr * self.weight_decay } else { 0.0 };
        let left = if self.variant == Variant::Paper { 1.0 } else { 1.0 - decay };
        let args = UpdateArgs { lr: (size * left) as f32, decay: decay as f32, ..at.update() };
        backend.apply_update(param, direction, &args);
    }
}

/// How second moments are stored that have a number for each element; those that a configuration shares are refused by
/// it.
fn second_moment(v: SecondMoment) -> StateCodec {
    match v {
        SecondMoment::Int8 => StateCodec::Int8 { signed: false },
        SecondMoment::Int4 => StateCodec::Int4 { signed: false },
        SecondMoment::F32 | SecondMoment::Row | SecondMoment::Factored => StateCodec::F32,
    }
}

/// A state tensor that the rule declared.
fn tensor<'a>(param: &'a Param, name: &str) -> &'a StateTensor {
    param.state.get(name).unwrap_or_else(|| panic!("the rule declared {name}"))
}

/// How a matrix is projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Projected {
    rows: usize,
    cols: usize,
    rank: usize,
}

impl Projected {
    fn of(shape: GroupedShape, rank: usize) -> Self {
        Self { rows: shape.rows, cols: shape.cols, rank }
    }

    /// Whether columns are the longer side, so that the projection multiplies from the left.
    fn is_wide(&self) -> bool {
        self.rows < self.cols
    }

    fn side(&self) -> usize {
        self.rows.min(self.cols)
    }

    fn long(&self) -> usize {
        self.rows.max(self.cols)
    }

    fn shape(&self) -> StateShape {
        StateShape::Matrix { rows: self.rank, cols: self.long() }
    }

    /// Along what the matrix has a factor for each index of the longer side.
    fn axis(&self) -> Axis {
        if self.is_wide() { Axis::Cols } else { Axis::Rows }
    }

    /// `out = P G` or `P G^T`, `[rank, long]`.
    fn project(&self, backend: &mut dyn Backend, p: Span, grad: Span, out: Span) {
        let layout = if self.is_wide() { Layout::Plain } else { Layout::Transposed };
        let (rows, inner, cols) = (self.rank, self.side(), self.long());
        multiply(backend, (p, Layout::Plain), (grad, layout), out, [rows, inner, cols], [1.0, 0.0]);
    }

    /// `out = Z G^T` or `Z G`, `[rank, side]`, of `Z [rank, long]`.
    fn gather(&self, backend: &mut dyn Backend, z: Span, grad: Span, out: Span) {
        let layout = if self.is_wide() { Layout::Transposed } else { Layout::Plain };
        let (rows, inner, cols) = (self.rank, self.long(), self.side());
        multiply(backend, (z, Layout::Plain), (grad, layout), out, [rows, inner, cols], [1.0, 0.0]);
    }

    /// `out = alpha P^T N + beta out`, or its transpose: back to the matrix's shape.
    fn back(&self, backend: &mut dyn Backend, p: Span, n: Span, out: Span, alpha_beta: [f32; 2]) {
        let (a, b) = if self.is_wide() { (p, n) } else { (n, p) };
        let shape = [self.rows, self.rank, self.cols];
        multiply(backend, (a, Layout::Transposed), (b, Layout::Plain), out, shape, alpha_beta);
    }
}

fn multiply(
    backend: &mut dyn Backend,
    a: (Span, Layout),
    b: (Span, Layout),
    out: Span,
    [rows, inner, cols]: [usize; 3],
    [alpha, beta]: [f32; 2],
) {
    backend.matmul(&MatMulArgs { a, b, out, rows, inner, cols, alpha, beta, precision: Precision::F32 });
}

/// Limits how much the norm of a direction grows. `sums` has a number for each row, `norm` one.
fn limit(backend: &mut dyn Backend, param: &Param, direction: Span, sums: Span, norm: Span, eps: f32) {
    let (rows, cols) = (param.weight.shape.rows, param.weight.shape.cols);
    backend.squares(direction, rows, cols, Axis::Rows, sums);
    backend.sums(sums, rows, norm);
    backend.limit_growth(norm, tensor(param, LIMITER), GROWTH, eps);
    backend.scale_axis(direction, 1, rows * cols, Axis::Rows, norm);
}
