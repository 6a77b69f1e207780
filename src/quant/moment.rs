//! Codecs of optimizer moments: one scale per group, stochastic rounding, exact zeros.
//!
//! `m` is signed and its zero is exact: a rounded `m` that cannot be zero drifts without bound where `v` is zero.
//! `v` is stored as its root, unsigned, and a positive `v` never becomes zero: code 0 means exactly 0.

use super::grid::absmax;
use super::rounding::{bf16_ceil, bf16_to_f32, low_byte};

/// Bits and kind of a compact moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MomentCodec {
    /// Largest code: 127 or 7 for `m`, 255 or 15 for `v`.
    pub max: u8,
    /// Whether it is a first moment.
    pub signed: bool,
}

impl MomentCodec {
    /// `m` in a byte.
    pub const M8: Self = Self { max: 127, signed: true };
    /// `m` in a nibble, stored plus 8.
    pub const M4: Self = Self { max: 7, signed: true };
    /// `v` in a byte.
    pub const V8: Self = Self { max: 255, signed: false };
    /// `v` in a nibble.
    pub const V4: Self = Self { max: 15, signed: false };

    /// Codes of a group of moments into `codes` (signed codes as two's complement); gives the scale's bf16 bits.
    /// `u` in [0, 1) decides each rounding.
    #[inline(always)]
    pub fn encode(&self, values: &mut [f32], u: &[f32], codes: &mut [u8]) -> u16 {
        if !self.signed {
            for x in values.iter_mut() {
                *x = x.sqrt();
            }
        }
        self.encode_roots(values, u, codes)
    }

    /// The same of second moments whose roots are known, or of first moments.
    #[inline(always)]
    pub fn encode_roots(&self, values: &[f32], u: &[f32], codes: &mut [u8]) -> u16 {
        let max = f32::from(self.max);
        let bits = bf16_ceil(absmax(values) / max);
        let scale = bf16_to_f32(bits);
        // Zero for an all-zero group; a subnormal scale has no finite inverse and its group becomes zero.
        let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        if self.signed {
            for ((x, u), code) in values.iter().zip(u).zip(codes) {
                *code = low_byte(limit((x * inverse + u).floor(), -max, max));
            }
        } else {
            for ((x, u), code) in values.iter().zip(u).zip(codes) {
                let least = if *x * inverse > 0.0 { 1.0 } else { 0.0 };
                *code = low_byte(limit((x * inverse + u).floor(), least, max));
            }
        }
        if inverse == 0.0 { 0 } else { bits }
    }

    /// Codes of four bits to nibbles, in place: signed ones are stored plus 8.
    #[inline(always)]
    pub fn to_nibbles(&self, codes: &mut [u8]) {
        let shift = if self.signed { 8 } else { 0 };
        codes.iter_mut().for_each(|code| *code = code.wrapping_add(shift));
    }

    /// The inverse of [`MomentCodec::to_nibbles`].
    #[inline(always)]
    pub fn from_nibbles(&self, codes: &mut [u8]) {
        let shift = if self.signed { 8 } else { 0 };
        codes.iter_mut().for_each(|code| *code = code.wrapping_sub(shift));
    }

    /// The inverse of [`MomentCodec::encode`]; `v` comes back squared.
    #[inline(always)]
    pub fn decode(&self, codes: &[u8], scale: u16, values: &mut [f32]) {
        let scale = bf16_to_f32(scale);
        if self.signed {
            for (x, &code) in values.iter_mut().zip(codes) {
                *x = scale * f32::from(code as i8);
            }
        } else {
            for (x, &code) in values.iter_mut().zip(codes) {
                let root = scale * f32::from(code);
                *x = root * root;
            }
        }
    }
}

/// `clamp` without its panic, which would keep the loops from being vectorized.
#[inline(always)]
fn limit(x: f32, least: f32, most: f32) -> f32 {
    let x = if x < least { least } else { x };
    if x > most { most } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{RngKey, RngUse};

    fn uniforms(step: u32) -> Vec<f32> {
        let mut u = vec![0.0; 64];
        RngKey { seed: 3, step, tensor: 0, usage: RngUse::M }.uniform(0, &mut u);
        u
    }

    #[test]
    fn zero_is_exact_and_a_positive_second_moment_never_vanishes() {
        for codec in [MomentCodec::M4, MomentCodec::M8, MomentCodec::V4, MomentCodec::V8] {
            let mut values: Vec<f32> = (0..64).map(|i| if i % 3 == 0 { 0.0 } else { 1e-12 * i as f32 }).collect();
            values[5] = 1.0;
            let before = values.clone();
            for step in 0..50 {
                let mut codes = [0; 64];
                let scale = codec.encode(&mut values.clone(), &uniforms(step), &mut codes);
                let mut back = [0.0; 64];
                codec.decode(&codes, scale, &mut back);
                for (x, y) in before.iter().zip(back) {
                    assert!(*x != 0.0 || y == 0.0, "{codec:?}: 0 became {y}");
                    assert!(codec.signed || *x == 0.0 || y > 0.0, "{codec:?}: {x} vanished");
                }
            }
        }
    }

    #[test]
    fn the_mean_over_many_roundings_is_the_number() {
        for codec in [MomentCodec::M4, MomentCodec::M8] {
            let values: Vec<f32> = (0..64).map(|i| (i as f32 - 31.5) * 1e-7).collect();
            let (mut sums, runs) = ([0.0f64; 64], 4000);
            let mut scale = 0;
            for step in 0..runs {
                let (mut codes, mut back) = ([0; 64], [0.0; 64]);
                scale = codec.encode(&mut values.clone(), &uniforms(step), &mut codes);
                codec.decode(&codes, scale, &mut back);
                sums.iter_mut().zip(back).for_each(|(sum, x)| *sum += f64::from(x));
            }
            // Five standard errors of a uniform rounding: a step's half over the root of the runs.
            let bound = 5.0 * 0.5 * f64::from(bf16_to_f32(scale)) / f64::from(runs).sqrt();
            for (sum, x) in sums.iter().zip(&values) {
                assert!((sum / f64::from(runs) - f64::from(*x)).abs() < bound);
            }
        }
    }

    #[test]
    fn groups_of_zeros_and_of_subnormals_are_zero() {
        for codec in [MomentCodec::M4, MomentCodec::V8] {
            for tiny in [0.0, 1e-44] {
                let mut codes = [9; 64];
                let scale = codec.encode(&mut [if codec.signed { tiny } else { 0.0 }; 64], &uniforms(1), &mut codes);
                assert_eq!((scale, codes), (0, [0; 64]));
            }
        }
    }
}
