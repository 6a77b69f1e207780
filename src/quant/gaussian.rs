//! Normally distributed numbers by additions, multiplications, divisions and roots alone, all of which every backend
//! rounds the same way: one formula, the same bits everywhere.

use super::RngKey;
use std::f32::consts::{FRAC_PI_2, LN_2, SQRT_2};

impl RngKey {
    /// Normally distributed numbers for the elements from `first` on: elements `4 B .. 4 B + 4` are two pairs of
    /// Box-Muller, made of words 0 and 1 and of words 2 and 3 of counter `B`. They reach to 5.8 standard deviations.
    ///
    /// # Panics
    /// If `first` is not a multiple of 4.
    #[inline(always)]
    pub fn gaussian(&self, first: u64, out: &mut [f32]) {
        assert!(first.is_multiple_of(4));
        for (counter, out) in (first / 4..).zip(out.chunks_mut(4)) {
            let [a, b, c, d] = self.words(counter);
            let [(x, y), (z, w)] = [pair(a, b), pair(c, d)];
            out.iter_mut().zip([x, y, z, w]).for_each(|(out, x)| *out = x);
        }
    }
}

/// Two independent numbers from 64 random bits.
#[inline(always)]
fn pair(radius: u32, angle: u32) -> (f32, f32) {
    // Both strictly between 0 and 1, exact in 24 bits.
    let u = ((radius >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0);
    let turn = ((angle << 2 >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0);
    let radius = (-2.0 * log(u)).sqrt();
    let (sin, cos) = sin_cos((turn - 0.5) * FRAC_PI_2);
    let (x, y) = (radius * cos, radius * sin);
    match angle >> 30 {
        0 => (x, y),
        1 => (-y, x),
        2 => (-x, -y),
        _ => (y, -x),
    }
}

/// The logarithm of a normal number: `u = m 2^e` with m near 1, and the series of `2 artanh((m - 1) / (m + 1))`.
#[inline(always)]
fn log(u: f32) -> f32 {
    let bits = u.to_bits();
    let (mut exponent, mut m) = ((bits >> 23) as i32 - 127, f32::from_bits(bits & 0x007f_ffff | 0x3f80_0000));
    if m > SQRT_2 {
        (exponent, m) = (exponent + 1, m * 0.5);
    }
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = 2.0 + z * (2.0 / 3.0 + z * (2.0 / 5.0 + z * (2.0 / 7.0 + z * (2.0 / 9.0))));
    exponent as f32 * LN_2 + s * series
}

/// For angles between -pi/4 and pi/4.
#[inline(always)]
fn sin_cos(x: f32) -> (f32, f32) {
    let z = x * x;
    let sin = x * (1.0 - z * (1.0 / 6.0 - z * (1.0 / 120.0 - z * (1.0 / 5040.0 - z * (1.0 / 362_880.0)))));
    let cos = 1.0 - z * (0.5 - z * (1.0 / 24.0 - z * (1.0 / 720.0 - z * (1.0 / 40_320.0))));
    (sin, cos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::RngUse;

    #[test]
    fn the_series_are_those_of_the_functions() {
        for i in 1..=1000 {
            let u = i as f32 / 1001.0;
            assert!((f64::from(log(u)) - f64::from(u).ln()).abs() < 1e-6, "log {u}");
            assert!((f64::from(log(u * 1e-6)) - f64::from(u * 1e-6).ln()).abs() < 2e-6, "log of a small {u}");
            let x = (u - 0.5) * FRAC_PI_2;
            let (sin, cos) = sin_cos(x);
            assert!((f64::from(sin) - f64::from(x).sin()).abs() < 2e-7, "sin {x}");
            assert!((f64::from(cos) - f64::from(x).cos()).abs() < 2e-7, "cos {x}");
        }
    }

    /// Moments up to the fourth, the correlation of neighbours, and the shares beyond one, two and three deviations.
    #[test]
    fn the_distribution_is_the_normal_one() {
        let mut x = vec![0.0; 400_000];
        RngKey { seed: 5, step: 2, tensor: 1, usage: RngUse::Projection }.gaussian(0, &mut x);
        let n = x.len() as f64;
        let mean = |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(x.into())).sum::<f64>() / n;
        // Five standard errors: those of x^k are the roots of 1, 2, 15, 96 over n.
        for (power, wanted, variance) in [(1, 0.0, 1.0f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let found = mean(&|x| x.powi(power));
            assert!((found - wanted).abs() < 5.0 * (variance / n).sqrt(), "mean of x^{power}: {found}");
        }
        for (beyond, share) in [(1.0, 0.317_310_5), (2.0, 0.045_500_3), (3.0, 0.002_699_8)] {
            let found = mean(&|x| f64::from(u8::from(x.abs() > beyond)));
            assert!((found - share).abs() < 5.0 * (share / n).sqrt(), "beyond {beyond}: {found}");
        }
        for lag in 1..=4 {
            let product = x.iter().zip(&x[lag..]).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>() / n;
            assert!(product.abs() < 5.0 / n.sqrt(), "neighbours {lag} apart: {product}");
        }
    }

    #[test]
    fn a_part_is_a_part_of_the_whole() {
        let key = RngKey { seed: 1 << 40, step: 7, tensor: 3, usage: RngUse::Projection };
        let (mut whole, mut part) = ([0.0; 64], [0.0; 13]);
        key.gaussian(0, &mut whole);
        key.gaussian(20, &mut part);
        assert_eq!(part, whole[20..33]);
    }
}
