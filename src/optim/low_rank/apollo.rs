//! APOLLO and APOLLO-Mini (arXiv 2412.05270), in the form of the authors' code: the gradient itself is the direction,
//! each of its channels scaled by what Adam would do to a random projection of it.
//!
//! With `R = P G` (P drawn anew every `gap` steps, entries of variance `1 / rank`) and Adam's direction N of it:
//! `s[j] = ||N[:, j]|| / (||R[:, j]|| + 1e-8)` for each index of the longer side, or for Mini one number from all of N and R;
//! `U = sqrt(scale) s G`, its norm limited to grow by 1 % a step; `w = w - lr (sqrt(c2) / c1) U`, then
//! `w = w - lr decay w`.
//!
//! P is never stored: every step draws it again from the run's seed, the parameter and the number of the refresh. The
//! paper (`variant = "paper"`) has no bias correction, adds nothing to norms, and decays the weight as it was.

use super::{LIMITER, LowRank, NORM_EPS, Parts, Projected, limit};
use crate::backend::{Axis, Backend, Param, Precision};
use crate::memory::Span;
use crate::optim::{Optimizer, ParamInfo, StepInfo, Variant};
use crate::quant::{RngKey, RngUse, StateShape, StateSpec};
use zerocopy::IntoBytes;

/// What has a factor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// Each index of the longer side: APOLLO.
    Channels,
    /// The matrix: APOLLO-Mini.
    Tensor,
}

/// APOLLO or APOLLO-Mini.
#[derive(Debug)]
pub struct Apollo {
    common: LowRank,
    norms: Norms,
    scale: f64,
    scale_front: bool,
    /// Projections to be used in place of drawn ones, one for each refresh.
    given: Vec<Vec<f32>>,
}

impl Apollo {
    /// With the square of what directions are multiplied by, before the limiter if `scale_front`.
    pub fn new(common: LowRank, norms: Norms, scale: f64, scale_front: bool) -> Self {
        Self { common, norms, scale, scale_front, given: Vec::new() }
    }

    /// The same with these projections, `[rank, side]` each, one after the other: for comparisons with other programs.
    pub fn with_projections(self, given: Vec<Vec<f32>>) -> Self {
        Self { given, ..self }
    }

    /// Numbers of the parts of the workspace: P, R, the norms of N and of R, rows of the direction, and its norm.
    fn parts(&self, p: &Projected) -> [usize; 6] {
        let norms = if self.norms == Norms::Channels { p.long() } else { 1 };
        [p.rank * p.side(), p.rank * p.long(), norms, norms, p.rows, 1]
    }

    fn draw(&self, backend: &mut dyn Backend, param: &Param, out: Span, at: &StepInfo) {
        let (refresh, _) = self.common.refresh(at);
        if !self.given.is_empty() {
            return backend.upload(self.given[refresh as usize].as_bytes(), out);
        }
        let key = RngKey { seed: at.seed, step: refresh as u32, tensor: param.id, usage: RngUse::Projection };
        backend.gaussian(out, &key, (1.0 / (self.common.rank as f64).sqrt()) as f32);
    }

    /// Squared norms of the columns of `x [rank, long]`, or of all of it, by way of `rows`.
    fn measure(&self, backend: &mut dyn Backend, p: &Projected, x: Span, [out, rows]: [Span; 2]) {
        match self.norms {
            Norms::Channels => backend.squares(x, p.rank, p.long(), Axis::Cols, out),
            Norms::Tensor => {
                let rows = rows.head(4 * p.rank);
                backend.squares(x, p.rank, p.long(), Axis::Rows, rows);
                backend.sums(rows, p.rank, out);
            }
        }
    }
}

impl Optimizer for Apollo {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        let mut specs = self.common.moments(param);
        specs.push(StateSpec::floats(LIMITER, StateShape::Scalars(2)));
        specs
    }

    fn workspace(&self, param: &ParamInfo) -> usize {
        Parts::total(self.parts(&Projected::of(param.shape, self.common.rank)))
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, workspace: Span, at: &StepInfo) {
        let common = &self.common;
        let p = Projected::of(param.weight.shape, common.rank);
        let paper = common.variant == Variant::Paper;
        let [projection, r, of_n, of_r, rows, norm] = Parts::split(workspace, self.parts(&p));
        backend.begin_update(grad, common.freezes());
        self.draw(backend, param, projection, at);
        p.project(backend, projection, grad, r);
        self.measure(backend, &p, r, [of_r, rows]);
        common.direct(backend, param, r, at, [1.0, 1.0]);
        self.measure(backend, &p, r, [of_n, rows]);
        let (eps, root) = (if paper { 0.0 } else { NORM_EPS }, self.scale.sqrt());
        backend.ratio_of_roots(of_n, of_r, eps);
        if self.scale_front {
            backend.scale(of_n, root as f32, Precision::F32);
        }
        match self.norms {
            Norms::Channels => backend.scale_axis(grad, p.rows, p.cols, p.axis(), of_n),
            Norms::Tensor => backend.scale_axis(grad, 1, p.rows * p.cols, Axis::Rows, of_n),
        }
        limit(backend, param, grad, rows, norm, eps);
        let size = at.lr * if paper { 1.0 } else { common.correction(at) };
        common.apply(backend, param, grad, at, if self.scale_front { size } else { size * root });
    }
}
