//! Four-bit floats: a sign, two bits of exponent, one of mantissa (E2M1), under powers of two (E8M0), as in the MX
//! formats of the Open Compute Project.
//!
//! | code | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | value | 0 | 0.5 | 1 | 1.5 | 2 | 3 | 4 | 6 |
//!
//! Codes 8 to 15 are the same with a minus sign; code 8 is another zero. Training counts the fifteen values in ascending
//! order, their ranks 0 to 14, zero at 7, and lays sixteen steps between each and the next: the trained byte is
//! 16 rank + residue, so that a residue of 8 is the value itself, and a larger one a larger value.

use super::SCALE_MIN;

/// 2^127, the largest power of two.
const LARGEST: f32 = f32::from_bits(0x7f00_0000);

/// The rank of a code among the values.
#[inline(always)]
pub const fn rank(code: u8) -> u8 {
    if code & 8 == 0 { 7 + code } else { 15 - code }
}

/// The code of a rank. That of a rank of 15, which no value has, is 8, as in padding.
#[inline(always)]
pub const fn code(rank: u8) -> u8 {
    match rank {
        15 => 8,
        _ if rank >= 7 => rank - 7,
        _ => 15 - rank,
    }
}

/// The value `p` ranks above zero, interpolated between ranks and continued beyond the last.
#[inline(always)]
pub fn level(p: f32) -> f32 {
    let a = p.abs();
    let near = if a - 2.0 > 0.5 * a { a - 2.0 } else { 0.5 * a };
    let all = if 2.0 * a - 8.0 > near { 2.0 * a - 8.0 } else { near };
    all.copysign(p)
}

/// The inverse of [`level`].
#[inline(always)]
pub fn position(x: f32) -> f32 {
    let a = x.abs();
    let near = if a + 2.0 < 2.0 * a { a + 2.0 } else { 2.0 * a };
    let all = if 0.5 * a + 4.0 < near { 0.5 * a + 4.0 } else { near };
    all.copysign(x)
}

/// The value of a code.
#[inline(always)]
pub fn code_value(code: u8) -> f32 {
    level(f32::from(rank(code)) - 7.0)
}

/// The scale of a byte; 255 is not a number.
#[inline(always)]
pub fn power_of_two(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

/// The smallest power of two that is not below `x`, from [`SCALE_MIN`] on; not a number for what is not finite.
#[inline(always)]
pub fn power_at_least(x: f32) -> f32 {
    let least = if x < SCALE_MIN { SCALE_MIN } else { x };
    // What has bits below the exponent's carries into it; beyond 2^127 there is none.
    let up = f32::from_bits((least.to_bits() + 0x007f_ffff) & 0x7f80_0000);
    if least <= LARGEST { up } else { f32::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_floats_of_the_table() {
        let values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        for (c, value) in values.into_iter().enumerate() {
            assert_eq!((code_value(c as u8), code_value(c as u8 + 8)), (value, -value));
        }
        let ranked: Vec<f32> = (0..15).map(|r| code_value(code(r))).collect();
        assert!(ranked.is_sorted_by(|a, b| a < b) && ranked[7] == 0.0);
        assert!((0..16).all(|c| c == 8 || code(rank(c)) == c));
    }

    #[test]
    fn positions_are_the_inverse_of_levels() {
        for i in -1200..=1200 {
            let p = i as f32 / 160.0;
            assert!((position(level(p)) - p).abs() < 1e-6, "{p}");
        }
        assert!(position(f32::NAN).is_nan() && level(f32::NAN).is_nan());
    }

    #[test]
    fn powers_of_two_are_those_of_their_bytes() {
        for byte in 0..=254u8 {
            assert_eq!(f64::from(power_of_two(byte)), 2f64.powi(i32::from(byte) - 127));
        }
        assert!(power_of_two(255).is_nan());
        assert_eq!((power_at_least(0.0), power_at_least(1.0), power_at_least(1.0001)), (SCALE_MIN, 1.0, 2.0));
        assert!(power_at_least(f32::MAX).is_nan() && power_at_least(f32::NAN).is_nan());
        assert_eq!(power_at_least(1.5e38).log2(), 127.0);
    }
}
