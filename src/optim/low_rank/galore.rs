//! GaLore (arXiv 2403.03507) and Fira (arXiv 2410.01623), in the form of the authors' code: Adam in the subspace of the
//! gradient's largest singular values, found anew every `gap` steps; and as long as there is none, because the steps in which
//! it was to be found were skipped.
//!
//! With `R = P G` and Adam's direction N of it, GaLore steps by `D = scale P^T N`. Fira adds what the subspace leaves out:
//! `S = (G - scale P^T R) phi`, where `phi[j] = ||N[:, j]|| / (||R[:, j]|| + 1e-8)` for each index of the longer side, its
//! norm limited to grow by 1 % a step; `D = scale P^T N + S`. Then `w = w - lr (sqrt(c2) / c1) D` and
//! `w = w - lr decay w`. Moments are neither reset nor rotated when the subspace changes.
//!
//! In the papers (`variant = "paper"`) the bias of moments is corrected in N, GaLore's before eps is added; and Fira's D is
//! `scale (P^T N + S)` with `S = (G - P^T R) phi`.

use super::dense::Dense;
use super::subspace::{self, Refresh};
use super::{LIMITER, LowRank, NORM_EPS, PROJECTION, Parts, Projected, limit, tensor};
use crate::backend::{Axis, Backend, Param};
use crate::memory::Span;
use crate::optim::{Optimizer, ParamInfo, StepInfo, Variant};
use crate::quant::{RngKey, RngUse, StateCodec, StateFormat, StateShape, StateSpec};
use crate::store::ticks;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use zerocopy::IntoBytes;

/// What becomes of the gradient outside of the subspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// Nothing: GaLore.
    Dropped,
    /// It is scaled as the subspace was: Fira.
    Scaled,
}

/// GaLore or Fira.
#[derive(Debug)]
pub struct GaLore {
    common: LowRank,
    residual: Residual,
    scale: f64,
    codec: StateCodec,
    /// Projections to be used in place of those found, one for each refresh.
    given: Vec<Vec<f32>>,
    /// What searches leave to the host, from the first on.
    dense: Mutex<Option<Dense>>,
    /// Parameters that were seen to have a projection.
    projected: Mutex<HashSet<u32>>,
    /// Nanoseconds of the searches since they were last asked for.
    searched: AtomicU64,
}

impl GaLore {
    /// With what directions are multiplied by, and how the projection is stored (signed, if not float32).
    pub fn new(common: LowRank, residual: Residual, scale: f64, codec: StateCodec) -> Self {
        let (given, dense, projected) = (Vec::new(), Mutex::default(), Mutex::default());
        Self { common, residual, scale, codec, given, dense, projected, searched: AtomicU64::default() }
    }

    /// The same with these projections, `[rank, side]` each, one after the other: for comparisons with other programs.
    pub fn with_projections(self, given: Vec<Vec<f32>>) -> Self {
        Self { given, ..self }
    }

    /// Numbers of the parts of the workspace of a step: R, P if its state is compact, then of Fira the norms of N and of
    /// R, sums of rows, and a norm.
    fn parts(&self, p: &Projected) -> [usize; 6] {
        let stored = if self.codec == StateCodec::F32 { 0 } else { p.rank * p.side() };
        let (long, rows, one) = if self.residual == Residual::Scaled { (p.long(), p.rows, 1) } else { (0, 0, 0) };
        [p.rank * p.long(), stored, long, long, rows, one]
    }

    /// Puts the projection of this gradient in place of the former one, unless the gradient shows none.
    fn refresh(&self, backend: &mut dyn Backend, param: &Param, grad: Span, workspace: Span, at: &StepInfo) {
        let start = ticks();
        let (number, p) = (self.common.refresh(at).0, Projected::of(param.weight.shape, self.common.rank));
        let state = tensor(param, PROJECTION);
        let key = |usage| RngKey { seed: at.seed, step: number as u32, tensor: param.id, usage };
        let found = match self.given.get(number as usize) {
            Some(given) => {
                let [place] = Parts::split(workspace, [p.rank * p.side()]);
                backend.upload(given.as_bytes(), place);
                Some(place)
            }
            None => {
                let refresh = Refresh { p, param, state, key: key(RngUse::Projection) };
                self.with_dense(|dense| subspace::find(backend, dense, &refresh, grad, workspace))
            }
        };
        if let Some(found) = found {
            backend.store_state(param, state, found, &key(RngUse::StoredProjection));
        }
        self.searched.fetch_add(ticks().saturating_sub(start).as_nanos() as u64, Ordering::Relaxed);
    }

    /// Whether there is a projection: all of zeros is none, and nothing would be learned with it. Asked of the device until there
    /// is one.
    fn is_projected(&self, backend: &mut dyn Backend, param: &Param, p: &Projected, workspace: Span) -> bool {
        let mut projected = self.projected.lock().unwrap_or_else(PoisonError::into_inner);
        if projected.contains(&param.id) {
            return true;
        }
        let state = tensor(param, PROJECTION);
        let found = self.with_dense(|dense| subspace::is_something(backend, dense, p, param, state, workspace));
        if found {
            projected.insert(param.id);
        }
        found
    }

    /// With the room of searches.
    fn with_dense<T>(&self, work: impl FnOnce(&mut Dense) -> T) -> T {
        // A panic in another search is on its way to the caller; the room holds nothing between two of them.
        let mut dense = self.dense.lock().unwrap_or_else(PoisonError::into_inner);
        work(dense.get_or_insert_with(|| Dense::new(subspace::most_directions(self.common.rank))))
    }

    /// Where float32 P lies.
    fn projection(&self, backend: &mut dyn Backend, param: &Param, room: Span) -> Span {
        let state = tensor(param, PROJECTION);
        if self.codec == StateCodec::F32 {
            return state.data;
        }
        backend.load_state(param, state, room);
        room
    }
}

impl Optimizer for GaLore {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        let p = Projected::of(param.shape, self.common.rank);
        let shape = StateShape::Matrix { rows: p.rank, cols: p.side() };
        let mut specs = self.common.moments(param);
        specs.push(StateSpec { name: PROJECTION, format: StateFormat::new(self.codec, shape) });
        if self.residual == Residual::Scaled {
            specs.push(StateSpec::floats(LIMITER, StateShape::Scalars(2)));
        }
        specs
    }

    fn workspace(&self, param: &ParamInfo) -> usize {
        let p = Projected::of(param.shape, self.common.rank);
        Parts::total(self.parts(&p)).max(subspace::workspace(&p))
    }

    fn host_bytes(&self) -> usize {
        Dense::bytes(subspace::most_directions(self.common.rank))
    }

    fn take_search_seconds(&self) -> f64 {
        self.searched.swap(0, Ordering::Relaxed) as f64 * 1e-9
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, workspace: Span, at: &StepInfo) {
        let common = &self.common;
        let p = Projected::of(param.weight.shape, common.rank);
        let paper = common.variant == Variant::Paper;
        let alpha = self.scale as f32;
        backend.begin_update(grad, common.freezes());
        if common.refresh(at).1 || !self.is_projected(backend, param, &p, workspace) {
            self.refresh(backend, param, grad, workspace, at);
        }
        let [r, room, of_n, of_r, rows, norm] = Parts::split(workspace, self.parts(&p));
        let projection = self.projection(backend, param, room);
        p.project(backend, projection, grad, r);
        let correction = common.correction(at);
        if self.residual == Residual::Dropped {
            let [c1, c2] = common.corrections(at);
            let (factors, size) = if paper { ([1.0 / c1, 1.0 / c2.sqrt()], 1.0) } else { ([1.0, 1.0], correction) };
            common.direct(backend, param, r, at, factors);
            p.back(backend, projection, r, grad, [alpha, 0.0]);
            return common.apply(backend, param, grad, at, at.lr * size);
        }
        // What is left of the gradient takes its place; then the direction joins it.
        let (alpha, factor, size) = if paper { (1.0, correction, self.scale) } else { (alpha, 1.0, correction) };
        backend.squares(r, p.rank, p.long(), Axis::Cols, of_r);
        p.back(backend, projection, r, grad, [-alpha, 1.0]);
        common.direct(backend, param, r, at, [factor, 1.0]);
        backend.squares(r, p.rank, p.long(), Axis::Cols, of_n);
        backend.ratio_of_roots(of_n, of_r, NORM_EPS);
        backend.scale_axis(grad, p.rows, p.cols, p.axis(), of_n);
        limit(backend, param, grad, rows, norm, NORM_EPS);
        p.back(backend, projection, r, grad, [alpha, 1.0]);
        common.apply(backend, param, grad, at, at.lr * size);
    }
}
