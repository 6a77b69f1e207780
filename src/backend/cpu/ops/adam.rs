//! The optimizer step: statistics of the gradient, then one pass over gradient, weight and state.

use super::apply_update::update_rows;
use super::factored::{self, Means};
use super::param_rows::ParamRows;
use crate::backend::adam::{AdamArgs, AdamParams, Clip, Scalars, state};
use crate::backend::cpu::simd::adam as packed;
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::reduce::fold_halves;
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::{MaxShapes, Param, UpdateStats};
use crate::memory::{ArenaBorrow, Span};

/// Elements of one leaf of the reductions.
const LEAF: usize = 16384;

/// Partial sums of a leaf: enough for four vector registers of any instruction set, and one block of GPU threads.
const LANES: usize = 256;

/// Of them as many as a pass over a leaf keeps in registers, beside as many maxima.
const STRIP: usize = 32;

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
    let Statistics { gmax, grad_sq } = statistics(isa, grad);
    if !(gmax.is_finite() && grad_sq.is_finite()) {
        return SKIPPED;
    }
    let mut kept = Scalars::load(scalars);
    let clip = args.clip(&mut kept, gmax);
    // A gradient that nothing is clipped of has its own norm, bit for bit.
    let clipped = if gmax > clip.at { reduce(grad, &|leaf| squares(isa, leaf, clip), &|a, b| a + b) } else { grad_sq };
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

/// What an update has to know of a gradient before it moves an element.
pub(super) struct Statistics {
    /// The largest magnitude; infinite or not a number if one of the elements is.
    pub(super) gmax: f32,
    /// Sum of the squares.
    pub(super) grad_sq: f64,
}

/// Both in one pass.
pub(super) fn statistics(isa: Isa, grad: &[f32]) -> Statistics {
    let (most, grad_sq) = reduce(grad, &|leaf| statistics_of_leaf(isa, leaf), &|a, b| (a.0.max(b.0), a.1 + b.1));
    Statistics { gmax: f32::from_bits(most), grad_sq }
}

vectorized! {
    /// The largest magnitude as bits, whose order is that of magnitudes (infinities and NaN are the largest of all), and the
    /// sum of squares.
    fn statistics_of_leaf(values: &[f32]) -> (u32, f64) {
        let (mut most, mut sums) = ([0u32; LANES], [0.0f32; LANES]);
        let (whole, tail) = values.as_chunks::<LANES>();
        for from in (0..LANES).step_by(STRIP) {
            let (mut strip_most, mut strip_sums) = ([0u32; STRIP], [0.0f32; STRIP]);
            for chunk in whole {
                let strip = &chunk[from..from + STRIP];
                for j in 0..STRIP {
                    strip_most[j] = strip_most[j].max(magnitude(strip[j]));
                    strip_sums[j] += strip[j] * strip[j];
                }
            }
            most[from..from + STRIP].copy_from_slice(&strip_most);
            sums[from..from + STRIP].copy_from_slice(&strip_sums);
        }
        for ((most, sum), &x) in most.iter_mut().zip(&mut sums).zip(tail) {
            *most = (*most).max(magnitude(x));
            *sum += x * x;
        }
        (most.into_iter().fold(0, u32::max), f64::from(fold_halves(sums)))
    }
}

/// A number without its sign, as bits.
#[inline(always)]
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

vectorized! {
    /// Sum of squares of the clipped gradient.
    fn squares(values: &[f32], clip: Clip) -> f64 {
        let mut lanes = [0.0f32; LANES];
        for chunk in values.chunks(LANES) {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                let y = clip.apply(x);
                *lane += y * y;
            }
        }
        f64::from(fold_halves(lanes))
    }
}

vectorized! {
    /// One block of rows.
    fn update(with: Isa, rows: &mut ParamRows, params: &AdamParams, id: u32) -> u64 {
        update_rows(with, rows, params, id)
    }
}

/// The fused pass; gives the number of groups that were rescaled.
fn apply(isa: Isa, rows: &mut ParamRows, params: &AdamParams, id: u32) -> u64 {
    let count = rows.len();
    if count <= 1 || rows.grad.len() <= BLOCK {
        if packed::is_simple(params)
            && let Some(mut rows) = rows.packed(isa)
        {
            return packed::update(isa, &mut rows, params, id);
        }
        return update(isa, isa, rows, params, id);
    }
    let (mut left, mut right) = rows.split(count / 2);
    let (a, b) = rayon::join(|| apply(isa, &mut left, params, id), || apply(isa, &mut right, params, id));
    a + b
}
