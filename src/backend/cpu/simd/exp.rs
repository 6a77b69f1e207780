//! The exponential function as straight-line arithmetic, since the C library's does not vectorize.

use super::isa::madd;

/// 1.5 * 2^23: adding it rounds a small float32 to an integer, which is then in the low bits.
const MAGIC: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has so few bits that its product with an exponent is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Below this the result is 0: subnormal numbers would cost a hundred times the time of all others.
const LOWEST: f32 = -86.6;

/// e^x with a relative error below 1.5e-7 (1.3 units in the last place), fused or not; below -86.6 it is 0 (instead
/// of 2.5e-38 at most), above 88.73 infinity, NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // `clamp` keeps NaN, `min` and `max` would not.
    let clamped = x.clamp(LOWEST, 89.0);
    let shifted = madd::<FMA>(clamped, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    // |r| <= ln 2 / 2
    let r = madd::<FMA>(n, -LN2_LOW, madd::<FMA>(n, -LN2_HIGH, clamped));
    // Minimax of (e^r - 1 - r) / r^2 (Cephes' coefficients).
    let mut p = madd::<FMA>(1.987_569_1e-4, r, 1.398_199_9e-3);
    p = madd::<FMA>(p, r, 8.333_452e-3);
    p = madd::<FMA>(p, r, 4.166_579_6e-2);
    p = madd::<FMA>(p, r, 0.166_666_66);
    p = madd::<FMA>(p, r, 0.5);
    let value = madd::<FMA>(p, r * r, r) + 1.0;
    // 2^n = 2 2^(n-1): -126 <= n - 1 <= 127 are the exponents of normal numbers. Wrapping: for NaN, n is anything.
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half_power = f32::from_bits((n.wrapping_add(126) as u32) << 23);
    if x < LOWEST { 0.0 } else { value * 2.0 * half_power }
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst<const FMA: bool>() -> f64 {
        // 700 001 points over the whole range, offset from round numbers.
        let points = (0..=700_000).map(|i| (-86.59 + f64::from(i) * 2.504e-4) as f32);
        points
            .map(|x| {
                let exact = f64::from(x).exp();
                (f64::from(exp::<FMA>(x)) / exact - 1.0).abs()
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn relative_error_is_within_the_promise() {
        assert!(worst::<true>() < 1.5e-7, "{}", worst::<true>());
        assert!(worst::<false>() < 1.5e-7, "{}", worst::<false>());
    }

    #[test]
    fn ends_of_the_range_and_nan() {
        let e = exp::<false>;
        assert_eq!((e(0.0), e(-0.0), e(f32::NEG_INFINITY), e(-105.0)), (1.0, 1.0, 0.0, 0.0));
        assert_eq!((e(88.73), e(f32::INFINITY)), (f32::INFINITY, f32::INFINITY));
        assert!(e(88.72).is_finite() && e(f32::NAN).is_nan());
        assert_eq!((e(-86.61), e(-86.6).is_normal()), (0.0, true));
    }
}
