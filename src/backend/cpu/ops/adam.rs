//! The optimizer step: two reductions over the gradient, then one pass over gradient, weight and state.

use super::apply_update::update_rows;
use super::factored::{self, Means};
use super::param_rows::ParamRows;
use crate::backend::adam::{AdamArgs, AdamParams, Clip, Scalars, state};
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::reduce::fold_halves;
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::{MaxShapes, Param, UpdateStats};
use crate::memory::{ArenaBorrow, Span};

/// Elements of one leaf of the reductions.
const LEAF: usize = 16384;

/// Partial sums of a leaf: enough for four vector registers of any instruction set, and one block of GPU threads.
const LANES: usize = 256;

/// Elements below which a block of rows is not cut further.
const BLOCK: usize = 16384;

/// What an update does whose gradient is not finite.
const SKIPPED: UpdateStats = UpdateStats { grad_sq: 0.0, rescales: 0, skipped: 1 };

/// Scratch of a step: shared second moments need some.
pub(crate) fn need(max: &MaxShapes) -> Need {
    factored::need(max)
}

/// One step of one tensor; see [`crate::backend::ops::Update::adam`].
pub(crate) fn step<'a>(
    isa: Isa,
    scratch: &'a mut Scratch,
    slices: &mut ArenaBorrow<'a>,
    param: &Param,
    grad: Span,
    args: &AdamArgs,
) -> UpdateStats {
    let scalars = param.state.get(state::SCALARS).expect("the fused pass has scalars");
    let planes = Planes {
        rows: ParamRows::claim(slices, param, grad, param.sparse && !args.resets()),
        means: Means::claim(slices, scratch, param),
        scalars: slices.write(scalars.data),
    };
    step_rows(isa, planes, args, param.id)
}

/// What a step reads and writes.
struct Planes<'a> {
    rows: ParamRows<'a>,
    /// Of a parameter whose second moments are shared.
    means: Option<Means<'a>>,
    scalars: &'a mut [f32],
}

/// The same over slices.
fn step_rows(isa: Isa, planes: Planes, args: &AdamArgs, id: u32) -> UpdateStats {
    let Planes { mut rows, means, scalars } = planes;
    let grad = rows.grad;
    let largest = reduce(grad, &|leaf| absmax_bits(isa, leaf), &|a, b| a.max(b));
    let gmax = f32::from_bits(largest);
    let mut kept = Scalars::load(scalars);
    if !gmax.is_finite() {
        return SKIPPED;
    }
    let clip = args.clip(&mut kept, gmax);
    let (clipped, grad_sq) = reduce(grad, &|leaf| squares(isa, leaf, clip), &|a, b| (a.0 + b.0, a.1 + b.1));
    if !grad_sq.is_finite() {
        return SKIPPED;
    }
    let params = args.params(&mut kept, clip, clipped.sqrt() as f32);
    kept.save(scalars);
    if let Some(means) = means.filter(|_| !params.frozen) {
        rows.v = means.advance(isa, rows.shape, grad, rows.sparse, &params);
    }
    let rescales = if params.frozen && args.decay == 0.0 { 0 } else { apply(isa, &mut rows, &params, id) };
    UpdateStats { grad_sq, rescales, skipped: 0 }
}

/// A reduction over leaves of [`LEAF`] elements, combined as a tree of neighbours (the left part takes the largest
/// power of two of leaves): its order depends on the length alone.
pub(super) fn reduce<T: Send>(
    values: &[f32],
    leaf: &(impl Fn(&[f32]) -> T + Sync),
    combine: &(impl Fn(T, T) -> T + Sync),
) -> T {
    let leaves = values.len().div_ceil(LEAF);
    if leaves <= 1 {
        return leaf(values);
    }
    let (left, right) = values.split_at(leaves.next_power_of_two() / 2 * LEAF);
    let (left, right) = rayon::join(|| reduce(left, leaf, combine), || reduce(right, leaf, combine));
    combine(left, right)
}

vectorized! {
    /// The largest magnitude as bits, whose order is that of magnitudes; infinities and NaN are the largest of all.
    pub(super) fn absmax_bits(values: &[f32]) -> u32 {
        let mut lanes = [0u32; LANES];
        for chunk in values.chunks(LANES) {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane = (*lane).max(x.to_bits() & 0x7fff_ffff);
            }
        }
        lanes.into_iter().fold(0, u32::max)
    }
}

vectorized! {
    /// Sums of squares of the clipped gradient and of the gradient as it came.
    pub(super) fn squares(values: &[f32], clip: Clip) -> (f64, f64) {
        let (mut clipped, mut raw) = ([0.0f32; LANES], [0.0f32; LANES]);
        for chunk in values.chunks(LANES) {
            for ((clipped, raw), &x) in clipped.iter_mut().zip(&mut raw).zip(chunk) {
                let y = clip.apply(x);
                *clipped += y * y;
                *raw += x * x;
            }
        }
        (f64::from(fold_halves(clipped)), f64::from(fold_halves(raw)))
    }
}

vectorized! {
    /// One block of rows.
    fn update(rows: &mut ParamRows, params: &AdamParams, id: u32) -> u64 {
        update_rows(rows, params, id)
    }
}

/// The fused pass; gives the number of groups that were rescaled.
fn apply(isa: Isa, rows: &mut ParamRows, params: &AdamParams, id: u32) -> u64 {
    let count = rows.len();
    if count <= 1 || rows.grad.len() <= BLOCK {
        return update(isa, rows, params, id);
    }
    let (mut left, mut right) = rows.split(count / 2);
    let (a, b) = rayon::join(|| apply(isa, &mut left, params, id), || apply(isa, &mut right, params, id));
    a + b
}
