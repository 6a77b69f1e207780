//! Forward products in floats of eight bits, as a reference: inputs are rounded to such floats under their scales, and what
//! that gives is multiplied in float32.

use super::linear::{self, BLOCK, SMALL_BATCH, multiply, tokens_of};
use super::weights::Rows;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::tasks::{LINE, Need};
use crate::backend::{Accumulate, Compute, MaxShapes, Weight};
use crate::memory::Span;

/// Inputs that are rounded at once (4 MiB).
const SLAB: usize = 1 << 20;
/// The largest float of the format.
const MOST: f32 = 448.0;

/// Scratch for all of this file.
pub(crate) fn need(max: &MaxShapes) -> Need {
    if max.compute != Compute::Fp8 {
        return Need::default();
    }
    let (slab, inner) = (SLAB.max(BLOCK * max.inputs).min(max.tokens * max.inputs), linear::need(max));
    Need { shared: slab.next_multiple_of(LINE) + inner.shared, ..inner }
}

/// `y = x w^T`, `x` rounded; the codes of `w` are such floats.
pub(super) fn linear_fp8(cpu: &mut Cpu, x: Span, w: &Weight, y: Span, accumulate: Accumulate) {
    let (isa, mut scratch, mut slices) = cpu.begin();
    let (x, w, y) = (slices.read::<f32>(x), Rows::claim(&mut slices, w), slices.write::<f32>(y));
    let (outputs, inputs) = (w.rows(), w.cols());
    let (tokens, group) = (tokens_of(x, inputs, y, outputs), w.decoder().shape().group);
    let rows = (SLAB / inputs / BLOCK).max(1) * BLOCK;
    let (rounded, mut rest) = scratch.divide((rows.min(tokens) * inputs).next_multiple_of(LINE));
    for (x, y) in x.chunks(rows * inputs).zip(y.chunks_mut(rows * outputs)) {
        let rounded = &mut rounded[..x.len()];
        let (_, mut areas) = rest.split(Need::default());
        areas.run(rounded.chunks_mut(inputs).zip(x.chunks(inputs)), |(out, x), _| round_row(isa, x, group, out));
        let (_, rest) = rest.divide(0);
        multiply(isa, rest, rounded, &w, y, accumulate, tokens <= SMALL_BATCH);
    }
}

vectorized! {
    /// A row in groups, whose last may be short.
    fn round_row(x: &[f32], group: usize, out: &mut [f32]) {
        for (x, out) in x.chunks(group).zip(out.chunks_mut(group)) {
            // Magnitudes are in the order of their bits, and what is not finite is above them.
            let most = f32::from_bits(x.iter().fold(0, |most, x| most.max(x.to_bits() & !SIGN)));
            let scale = if most.is_finite() { most / MOST } else { f32::NAN };
            let steps = MOST / most;
            let steps = if most.is_finite() && steps.is_finite() { steps } else { 0.0 };
            for (out, &x) in out.iter_mut().zip(x) {
                *out = scale * nearest(x * steps);
            }
        }
    }
}

const SIGN: u32 = 1 << 31;
/// 2^-6, below which floats of the format are multiples of 2^-9.
const SMALLEST: f32 = 1.0 / 64.0;
/// A float whose last place is 2^-9.
const TO_MULTIPLES: f32 = 16_384.0;

/// The nearest float of the format, of a magnitude up to [`MOST`]; halves go to the even neighbour.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    let magnitude = x.to_bits() & !SIGN;
    let small = (f32::from_bits(magnitude) + TO_MULTIPLES) - TO_MULTIPLES;
    // Three bits of the mantissa stay; a carry goes to the exponent.
    let normal = (magnitude + 0x7_ffff + (magnitude >> 20 & 1)) & !0xf_ffff;
    let rounded = if f32::from_bits(magnitude) < SMALLEST { small } else { f32::from_bits(normal) };
    f32::from_bits(rounded.to_bits() | x.to_bits() & SIGN)
}
