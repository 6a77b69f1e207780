//! The optimizer step: two reductions over the gradient, then one pass over gradient, weight and state.

use super::apply_update::update_rows;
use super::factored::{self as means, Means};
use super::param_rows::ParamRows;
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::reduce::fold_halves;
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::{Largest, Param};
use crate::memory::{Claims, Span};
use crate::optim::{Clip, Outcomes, Rates, Scalars, Step};

/// Elements of one leaf of the reductions.
const LEAF: usize = 16384;

/// Partial sums of a leaf: enough for four vector registers of any instruction set, and one block of GPU threads.
const LANES: usize = 256;

/// Elements below which a block of rows is not cut further.
const BLOCK: usize = 16384;

/// What an update does whose gradient is not finite.
const SKIPPED: Outcomes = Outcomes { grad_sq: 0.0, rescales: 0, skipped: 1 };

/// Scratch of a step: shared second moments need some.
pub(crate) fn need(largest: &Largest) -> Need {
    means::need(largest)
}

/// One step of one tensor; see [`crate::backend::Backend::optimizer_step`].
pub(crate) fn step<'a>(
    isa: Isa,
    scratch: &'a mut Scratch,
    claims: &mut Claims<'a>,
    param: &Param,
    grad: Span,
    step: &Step,
) -> Outcomes {
    let planes = Planes {
        rows: ParamRows::claim(claims, param, grad, param.sparse && !step.resets()),
        means: Means::claim(claims, scratch, param),
        scalars: claims.write(param.state.scalars),
    };
    step_rows(isa, planes, step, param.id, param.decay)
}

/// What a step reads and writes.
struct Planes<'a> {
    rows: ParamRows<'a>,
    /// Of a parameter whose second moments are shared.
    means: Option<Means<'a>>,
    scalars: &'a mut [f32],
}

/// The same over slices.
fn step_rows(isa: Isa, planes: Planes, step: &Step, id: u32, decays: bool) -> Outcomes {
    let Planes { mut rows, means, scalars } = planes;
    let grad = rows.grad;
    let largest = reduce(grad, &|leaf| absmax_bits(isa, leaf), &|a, b| a.max(b));
    let gmax = f32::from_bits(largest);
    let mut kept = Scalars::load(scalars);
    if !gmax.is_finite() {
        return SKIPPED;
    }
    let constants = step.constants(decays);
    let clip = constants.clip(&mut kept, gmax);
    let (clipped, grad_sq) = reduce(grad, &|leaf| squares(isa, leaf, clip), &|a, b| (a.0 + b.0, a.1 + b.1));
    if !grad_sq.is_finite() {
        return SKIPPED;
    }
    let rates = constants.rates(&mut kept, clip, clipped.sqrt() as f32);
    kept.save(scalars);
    if let Some(means) = means.filter(|_| !rates.frozen) {
        rows.v = means.advance(isa, rows.shape, grad, rows.sparse, &rates);
    }
    let rescales = if rates.frozen && constants.decay == 0.0 { 0 } else { apply(isa, &mut rows, &rates, step, id) };
    Outcomes { grad_sq, rescales, skipped: 0 }
}

/// A reduction over leaves of [`LEAF`] elements, combined as a tree of neighbours (the left part takes the largest
/// power of two of leaves): its order depends on the length alone.
fn reduce<T: Send>(values: &[f32], leaf: &(impl Fn(&[f32]) -> T + Sync), combine: &(impl Fn(T, T) -> T + Sync)) -> T {
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
    fn absmax_bits(values: &[f32]) -> u32 {
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
    fn squares(values: &[f32], clip: Clip) -> (f64, f64) {
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
    fn update(rows: &mut ParamRows, rates: &Rates, step: &Step, id: u32) -> u64 {
        update_rows(rows, rates, step, id)
    }
}

/// The fused pass; gives the number of groups that were rescaled.
fn apply(isa: Isa, rows: &mut ParamRows, rates: &Rates, step: &Step, id: u32) -> u64 {
    let count = rows.len();
    if count <= 1 || rows.grad.len() <= BLOCK {
        return update(isa, rows, rates, step, id);
    }
    let (mut left, mut right) = rows.split(count / 2);
    let (a, b) = rayon::join(|| apply(isa, &mut left, rates, step, id), || apply(isa, &mut right, rates, step, id));
    a + b
}

#[cfg(test)]
#[path = "adam_golden.rs"]
mod golden;

#[cfg(test)]
#[path = "adam_naive.rs"]
mod naive;

#[cfg(test)]
#[path = "adam_reference.rs"]
mod reference;
