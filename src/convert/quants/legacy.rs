//! Blocks of 32 elements with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, MXFP4.
//!
//! Element `j` of a block is in the low nibble of byte `j`, element `j + 16` in its high nibble; fifth bits are bit
//! `j` and `j + 16` of a little-endian u32.

use super::half;
use crate::quant::fp4;

/// `d`, 16 bytes of nibbles: `d (q - 8)`.
pub fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half(block);
    nibbles(&block[2..], out, |q, _| (f32::from(q) - 8.0) * d);
}

/// `d`, `m`, 16 bytes of nibbles: `d q + m`.
pub fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block), half(&block[2..]));
    nibbles(&block[4..], out, |q, _| f32::from(q) * d + m);
}

/// `d`, 32 fifth bits, 16 bytes of nibbles: `d (q - 16)`.
pub fn q5_0(block: &[u8], out: &mut [f32]) {
    let (d, high) = (half(block), fifth_bits(&block[2..]));
    nibbles(&block[6..], out, |q, j| (f32::from(q | bit(high, j)) - 16.0) * d);
}

/// `d`, `m`, 32 fifth bits, 16 bytes of nibbles: `d q + m`.
pub fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m, high) = (half(block), half(&block[2..]), fifth_bits(&block[4..]));
    nibbles(&block[8..], out, |q, j| f32::from(q | bit(high, j)) * d + m);
}

/// `d`, 32 signed bytes: `d c`.
pub fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half(block);
    for (out, &c) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(c as i8) * d;
    }
}

/// The byte of a power of two, 16 bytes of nibbles, each a four-bit float.
pub fn mxfp4(block: &[u8], out: &mut [f32]) {
    let scale = fp4::power_of_two(block[0]);
    nibbles(&block[1..], out, |q, _| scale * fp4::code_value(q));
}

fn nibbles(bytes: &[u8], out: &mut [f32], value: impl Fn(u8, usize) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for j in 0..16 {
        low[j] = value(bytes[j] & 15, j);
        high[j] = value(bytes[j] >> 4, j + 16);
    }
}

fn fifth_bits(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn bit(bits: u32, j: usize) -> u8 {
    (bits >> j & 1) as u8 * 16
}
