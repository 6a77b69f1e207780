//! Rounding of real numbers to integers and to bfloat16.

/// The `u` of `floor(x + u)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rounding<'a> {
    /// To the nearest, halves up: u = 1/2.
    Nearest,
    /// Stochastic: one u in [0, 1) per element; the expectation is the number itself.
    Stochastic(&'a [f32]),
}

impl Rounding<'_> {
    /// The u of element `i`.
    #[inline(always)]
    pub fn at(&self, i: usize) -> f32 {
        match self {
            Self::Nearest => 0.5,
            Self::Stochastic(u) => u[i],
        }
    }
}

/// The low byte of a whole number below 2^22 in magnitude, in two's complement. The addition moves
/// the number's bits to the end of the mantissa; unlike a saturating conversion it has no special cases, so it
/// vectorizes.
#[inline(always)]
pub fn low_byte(x: f32) -> u8 {
    (x + 12_582_912.0).to_bits() as u8
}

/// bfloat16 of `x`, rounded stochastically by the 16 bits of `u` (a multiple of 2^-16 in [0, 1)).
/// Numbers that are not finite become what rounding to nearest makes of them.
#[inline(always)]
pub fn bf16_stochastic(x: f32, u: f32) -> u16 {
    let bits = x.to_bits();
    if bits & 0x7f80_0000 == 0x7f80_0000 {
        // Inf keeps its bits; a NaN keeps a payload bit that truncation could lose.
        return (bits >> 16) as u16 | u16::from(bits & 0x007f_ffff != 0) << 6;
    }
    // A carry out of the mantissa moves to the next power of two, which is the next bfloat16.
    ((bits + (u * 65536.0) as u32) >> 16) as u16
}

/// float32 of bfloat16 bits.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The smallest bfloat16 that is not below `x` (finite, not negative).
#[inline(always)]
pub fn bf16_ceil(x: f32) -> u16 {
    (x.to_bits().wrapping_add(0xffff) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stochastic_bf16_is_exact_on_bf16_and_unbiased_between() {
        assert_eq!(bf16_to_f32(bf16_stochastic(-1.5, 0.999_984_74)), -1.5);
        let x = 1.0 + 0.25 / 128.0;
        let ups = (0..65536).filter(|&i| bf16_to_f32(bf16_stochastic(x, i as f32 / 65536.0)) > 1.0).count();
        assert_eq!(ups, 65536 / 4);
        assert!(bf16_to_f32(bf16_stochastic(f32::NAN, 0.0)).is_nan());
        assert_eq!(bf16_to_f32(bf16_stochastic(f32::INFINITY, 0.9)), f32::INFINITY);
    }

    #[test]
    fn low_bytes_are_those_of_the_integer() {
        for x in -300..=300 {
            assert_eq!(low_byte(x as f32), x as u8);
        }
    }

    #[test]
    fn ceil_is_never_below() {
        for x in [0.0, 1e-38, 1.0, 1.000_001, 3.3e38] {
            let up = bf16_to_f32(bf16_ceil(x));
            assert!(up >= x && up <= x * 1.0079, "{x} {up}");
        }
    }
}
