//! Activations in eight bits.

use super::{Groups, LeftRow, QUAD, WORD};
use crate::backend::cpu::simd::isa::vectorized;
use zerocopy::IntoBytes;

/// Largest magnitude of a byte.
const MOST: f32 = 127.0;

vectorized! {
    /// A row of activations, whose last group may be short, becomes a [`LeftRow`] beside weights whose integer of zero is
    /// `zero`.
    pub(crate) fn quantize_row(x: &[f32], groups: Groups, zero: u8, out: &mut [f32]) {
        let row = LeftRow(groups);
        let (codes, rest) = out.split_at_mut(row.codes());
        let (scales, rest) = rest.split_at_mut(groups.count);
        let (starts, means) = rest.split_at_mut(groups.count);
        let numbers = scales.iter_mut().zip(starts).zip(means);
        let group = groups.words * WORD;
        for ((x, codes), ((scale, start), mean)) in x.chunks(group).zip(codes.chunks_exact_mut(groups.words)).zip(numbers) {
            let sum;
            (*scale, sum) = quantize(x, codes);
            *start = f32::from_bits((-i32::from(zero) * sum).cast_unsigned());
            *mean = *scale * sum as f32;
        }
    }
}

vectorized! {
    /// Lays the words of a row in the order in which [`super::dots`] takes them: of four blocks the first halves, then the second.
    pub(crate) fn lay_by_quads(groups: Groups, row: &mut [f32]) {
        for quad in row[..LeftRow(groups).codes()].as_chunks_mut::<{ 8 * QUAD }>().0 {
            let old = *quad;
            for b in 0..QUAD {
                for w in 0..4 {
                    quad[4 * b + w] = old[8 * b + w];
                    quad[4 * (QUAD + b) + w] = old[8 * b + 4 + w];
                }
            }
        }
    }
}

/// A float to which any number of small magnitude can be added: the sum is rounded to an integer, halves to the even one,
/// whose two's complement is in its lowest bits.
const TO_INTEGER: f32 = 12_582_912.0;

/// The scale of a group and the sum of its bytes; what is not finite gives a scale that is not.
#[inline(always)]
fn quantize(x: &[f32], codes: &mut [f32]) -> (f32, i32) {
    // Magnitudes are in the order of their bits, and what is not finite is above them.
    let most = f32::from_bits(x.iter().fold(0, |most, x| most.max(x.to_bits() & !(1 << 31))));
    let scale = if most.is_finite() { most / MOST } else { f32::NAN };
    let steps = MOST / most;
    let steps = if most.is_finite() && steps.is_finite() { steps } else { 0.0 };
    let (bytes, padding) = codes.as_mut_bytes().split_at_mut(x.len());
    let mut sum = 0i32;
    for (byte, &x) in bytes.iter_mut().zip(x) {
        let code = (x * steps + TO_INTEGER).to_bits();
        sum += i32::from((code as u8).cast_signed());
        *byte = code as u8;
    }
    padding.fill(0);
    (scale, sum)
}
