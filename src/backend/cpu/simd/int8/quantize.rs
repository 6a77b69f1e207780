//! Activations in eight bits.

use super::{Groups, LeftRow, QUAD, WORD, WORDS, ZERO};
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::{FIRST_ADDED, GRAD_GROUP};
use crate::quant::GROUPS;
use zerocopy::IntoBytes;

/// Largest magnitude of a byte.
const MOST: f32 = 127.0;
/// Elements of the longest group.
const LONGEST: usize = GROUPS[GROUPS.len() - 1];

vectorized! {
    /// A row of activations, whose last group may be short, becomes a [`LeftRow`] beside weights whose integer of zero is
    /// `zero`.
    pub(crate) fn quantize_row(x: &[f32], groups: Groups, zero: u8, out: &mut [f32]) {
        const NOTHING: [(); LONGEST] = [(); LONGEST];
        let row = LeftRow(groups);
        for (g, x) in x.chunks(groups.words * WORD).enumerate() {
            let codes = &mut out[g * groups.words..][..groups.words];
            let (scale, sum) = quantize_group(x, &NOTHING[..x.len()], codes, |x, ()| x);
            out[row.scales() + g] = scale;
            out[row.starts() + g] = start(zero, sum);
            out[row.means() + g] = scale * sum as f32;
        }
    }
}

vectorized! {
    /// A row of a gradient, whose last group may be short, rounded at random beside panels whose integer of zero is [`ZERO`]:
    /// words of integers, and for each group the scale and what sums begin with.
    ///
    /// # Panics
    /// If there are fewer random numbers than elements, or less room.
    pub(crate) fn quantize_row_at_random(
        x: &[f32],
        random: &[f32],
        codes: &mut [f32],
        scales: &mut [f32],
        starts: &mut [f32],
    ) {
        let random = &random[..x.len()];
        for (g, (x, random)) in x.chunks(GRAD_GROUP).zip(random.chunks(GRAD_GROUP)).enumerate() {
            let sum;
            (scales[g], sum) = quantize_group(x, random, &mut codes[g * WORDS..][..WORDS], at_random);
            starts[g] = start(ZERO, sum);
        }
    }
}

/// What is rounded to the nearest integer in place of `x` steps.
#[inline(always)]
pub(super) fn at_random(x: f32, random: f32) -> f32 {
    (x + (random + FIRST_ADDED)).clamp(-MOST, MOST)
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

/// The bit of a float's sign.
pub(super) const SIGN: u32 = 1 << 31;

/// A float to which any number of small magnitude can be added: the sum is rounded to an integer, halves to the even one,
/// whose two's complement is in its lowest bits.
pub(super) const TO_INTEGER: f32 = 12_582_912.0;

/// The scale of a group and the sum of its bytes; `round` is given what an element is in steps, and what is beside it.
#[inline(always)]
fn quantize_group<T: Copy>(x: &[f32], beside: &[T], codes: &mut [f32], round: impl Fn(f32, T) -> f32) -> (f32, i32) {
    // Magnitudes are in the order of their bits, and what is not finite is above them.
    let (scale, steps) = scale_and_steps(x.iter().fold(0, |most, x| most.max(x.to_bits() & !SIGN)));
    let (bytes, padding) = codes.as_mut_bytes().split_at_mut(x.len());
    let mut sum = 0i32;
    for ((byte, &x), &beside) in bytes.iter_mut().zip(x).zip(beside) {
        let code = (round(x * steps, beside) + TO_INTEGER).to_bits();
        sum += i32::from((code as u8).cast_signed());
        *byte = code as u8;
    }
    padding.fill(0);
    (scale, sum)
}

/// What the sums of a group whose bytes' sum is `sum` begin with. Of bytes of what is not finite the sum may be anything.
#[inline(always)]
pub(super) fn start(zero: u8, sum: i32) -> f32 {
    f32::from_bits(sum.wrapping_mul(-i32::from(zero)).cast_unsigned())
}

/// The scale of a group and what its elements are multiplied by, from the bits of its largest magnitude; what is not finite
/// gives a scale that is not.
#[inline(always)]
pub(super) fn scale_and_steps(most: u32) -> (f32, f32) {
    let most = f32::from_bits(most);
    let scale = if most.is_finite() { most / MOST } else { f32::NAN };
    let steps = MOST / most;
    (scale, if most.is_finite() && steps.is_finite() { steps } else { 0.0 })
}
