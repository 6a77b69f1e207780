//! Normally distributed first values: Box-Muller in float64 on uniforms of 32 bits, rounded to float32.
//!
//! What defines the numbers is [`defined`], with the mathematical library's logarithm, sine and cosine, which takes some
//! 20 ns a number. Here they are computed from series, many at a time, to within [`ERROR`]; where a float32 lies within
//! that of the border between two, and only there, `defined` decides. So the bytes are the same.

use super::RngKey;
use std::f64::consts::{FRAC_2_PI, LN_2, TAU};

/// Counters of the generator at a time; each gives two pairs.
const LANES: usize = 16;

/// How far, as a share of itself, a product of these series may be from the mathematical library's: 16 units in the last
/// place of a float64. The most that 30 million pairs showed was 3.
const ERROR: f64 = 16.0 * f64::EPSILON;

impl RngKey {
    /// Normally distributed numbers (Box-Muller on 32-bit uniforms) for the elements from `first` on: element
    /// `4 B + i` is made of words `0, 1` (i < 2) or `2, 3` of counter `B`.
    ///
    /// # Panics
    /// If `first` is not a multiple of 4.
    pub fn normal(&self, first: u64, out: &mut [f32]) {
        assert!(first.is_multiple_of(4));
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512dq") && has!("avx512vl") && has!("fma") {
                // SAFETY: the processor has these features, as was just asked.
                return unsafe { self.normal_avx512(first, out) };
            }
            if has!("avx2") && has!("fma") {
                // SAFETY: as above.
                return unsafe { self.normal_avx2(first, out) };
            }
        }
        self.normal_anywhere::<false>(first, out);
    }

    /// Eight numbers at a time.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
    fn normal_avx512(&self, first: u64, out: &mut [f32]) {
        self.normal_anywhere::<true>(first, out);
    }

    /// Four, twice as many as the code for every x86 processor.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn normal_avx2(&self, first: u64, out: &mut [f32]) {
        self.normal_anywhere::<true>(first, out);
    }

    #[inline(always)]
    fn normal_anywhere<const FMA: bool>(&self, first: u64, out: &mut [f32]) {
        let mut counter = first / 4;
        let mut blocks = out.chunks_exact_mut(4 * LANES);
        for block in &mut blocks {
            self.normal_block::<FMA>(counter, block.try_into().expect("a block"));
            counter += LANES as u64;
        }
        let rest = blocks.into_remainder();
        if !rest.is_empty() {
            let mut block = [0.0; 4 * LANES];
            self.normal_block::<FMA>(counter, &mut block);
            rest.copy_from_slice(&block[..rest.len()]);
        }
    }

    #[inline(always)]
    fn normal_block<const FMA: bool>(&self, counter: u64, out: &mut [f32; 4 * LANES]) {
        let [a, b, c, d] = self.lanes::<LANES>(counter);
        for (first, radii, angles) in [(0, &a, &b), (2, &c, &d)] {
            let (mut x, mut y) = ([0.0; LANES], [0.0; LANES]);
            let mut doubtful = 0;
            for i in 0..LANES {
                let (across, up, clear) = series::<FMA>(radii[i] as u32, angles[i] as u32);
                (x[i], y[i]) = (across as f32, up as f32);
                doubtful |= u32::from(!clear) | u32::from(!rounds_to(across, x[i])) | u32::from(!rounds_to(up, y[i]));
            }
            for i in 0..LANES {
                let pair = &mut out[4 * i + first..][..2];
                (pair[0], pair[1]) = (x[i], y[i]);
                if doubtful != 0 {
                    let (across, up) = defined(radii[i] as u32, angles[i] as u32);
                    (pair[0], pair[1]) = (across as f32, up as f32);
                }
            }
        }
    }
}

/// Whether all that is within the error of `x` is rounded to `to`.
#[inline(always)]
fn rounds_to(x: f64, to: f32) -> bool {
    (x * (1.0 - ERROR)) as f32 == to && (x * (1.0 + ERROR)) as f32 == to
}

/// The uniform number whose logarithm is taken, and an angle.
#[inline(always)]
fn arguments(radius: u32, angle: u32) -> (f64, f64) {
    // In (0, 1], so that the logarithm is finite. Shares of 2^32 are exact.
    let share = |x: f64| x * (1.0 / 4_294_967_296.0);
    (share(f64::from(radius) + 1.0), share(f64::from(angle)) * TAU)
}

/// A pair of numbers, by definition, before it is rounded.
fn defined(radius: u32, angle: u32) -> (f64, f64) {
    let (u, angle) = arguments(radius, angle);
    let length = (-2.0 * u.ln()).sqrt();
    let (sin, cos) = angle.sin_cos();
    (length * cos, length * sin)
}

/// The pair from series, in float64, and whether they may be relied on: not where an argument is 1 or a quarter of a
/// turn, whose logarithm, sine or cosine is 0 or next to it. With `FMA` sums are fused with products, which changes their last
/// bits, but nothing that is relied on.
#[inline(always)]
fn series<const FMA: bool>(radius: u32, angle: u32) -> (f64, f64, bool) {
    let (u, turn) = arguments(radius, angle);
    let length = (-2.0 * log::<FMA>(u)).sqrt();
    // Less the nearest number of quarters, whose value is subtracted in two parts: the first is 33 bits long, so that its
    // multiples and the difference are exact.
    const QUARTER: (f64, f64) = (f64::from_bits(0x3ff9_21fb_5440_0000), 6.077_100_506_506_192e-11);
    let rounded = turn * FRAC_2_PI + ROUND;
    let quarters = rounded - ROUND;
    let x = (turn - quarters * QUARTER.0) - quarters * QUARTER.1;
    let (sin, cos) = sin_cos::<FMA>(x);
    let quadrant = rounded.to_bits() & 3;
    let (c, s) = if quadrant & 1 == 0 { (cos, sin) } else { (sin, cos) };
    let c = if (quadrant + 1) & 2 == 0 { c } else { -c };
    let s = if quadrant & 2 == 0 { s } else { -s };
    (length * c, length * s, radius != u32::MAX && angle & 0x3fff_ffff != 0)
}

/// `a b + c`, fused where there is an instruction for it.
#[inline(always)]
fn madd<const FMA: bool>(a: f64, b: f64, c: f64) -> f64 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Added, it rounds a small number to an integer, which is in the sum's last bits; subtracted again, it leaves it.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// The logarithm of a normal number: `u = m 2^e` with m near 1, and the series of `2 artanh((m - 1) / (m + 1))`.
#[inline(always)]
fn log<const FMA: bool>(u: f64) -> f64 {
    // So that m is between the root of one half and that of two.
    const SHIFT: u64 = 0x3ff0_0000_0000_0000 - 0x3fe6_a09e_667f_3bcd;
    let bits = u.to_bits() + SHIFT;
    let exponent = (bits >> 52) as i32 - 1023;
    let m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) + 0x3fe6_a09e_667f_3bcd);
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    // 2/3 z + 2/5 z^2 + ..., of which the first that is left out is below 2^-56 of the sum.
    let mut series = 2.0 / 23.0;
    for term in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        series = madd::<FMA>(series, z, 2.0 / term);
    }
    // 2 s = f - s f, without a rounding of s that counts.
    let tail = s * (z * series - f);
    let exponent = f64::from(exponent);
    // The first part of ln 2 has zeros at its end, so that its multiples are exact.
    const LN_2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    debug_assert!((LN_2_HIGH + LN_2_LOW - LN_2).abs() < f64::EPSILON);
    exponent * LN_2_HIGH + (f + (tail + exponent * LN_2_LOW))
}

/// Sine and cosine of at most an eighth of a turn, from Taylor's series: the first term that is left out is below 2^-56.
#[inline(always)]
fn sin_cos<const FMA: bool>(x: f64) -> (f64, f64) {
    let z = x * x;
    let mut sin = 1.0 / 355_687_428_096_000.0;
    let mut cos = -1.0 / 6_402_373_705_728_000.0;
    for term in [-1_307_674_368_000.0, 6_227_020_800.0, -39_916_800.0, 362_880.0, -5_040.0, 120.0, -6.0] {
        sin = madd::<FMA>(sin, z, 1.0 / term);
    }
    for term in [20_922_789_888_000.0, -87_178_291_200.0, 479_001_600.0, -3_628_800.0, 40_320.0, -720.0, 24.0] {
        cos = madd::<FMA>(cos, z, 1.0 / term);
    }
    (x + x * (z * sin), (1.0 - 0.5 * z) + z * z * cos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::RngUse;

    fn key(seed: u64) -> RngKey {
        RngKey { seed, step: 0, tensor: 3, usage: RngUse::Init }
    }

    /// The numbers as they are defined, one by one.
    fn one_by_one(key: &RngKey, first: u64, len: usize) -> Vec<f32> {
        let words = (first / 4..).flat_map(|counter| {
            let [a, b, c, d] = key.words(counter);
            [defined(a, b), defined(c, d)]
        });
        words.flat_map(|(x, y)| [x as f32, y as f32]).take(len).collect()
    }

    type Numbers = fn(&RngKey, u64, &mut [f32]);

    /// What [`RngKey::normal`] does on lesser processors, as far as this one can.
    fn others() -> Vec<(Numbers, &'static str)> {
        let mut all: Vec<(Numbers, &str)> =
            vec![(|key, first, out| key.normal_anywhere::<false>(first, out), "anywhere")];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has these features, as was just asked.
            all.push((|key, first, out| unsafe { key.normal_avx2(first, out) }, "AVX2"));
        }
        all
    }

    #[test]
    fn the_numbers_are_the_mathematical_librarys_to_the_bit() {
        for (seed, first, len) in
            [(1, 0, 2_000_000), (2, 1 << 34, 400_003), (3, 4, 31), (4, 8, 32), (5, 12, 1), (6, 0, 0)]
        {
            let mut found = vec![0.0f32; len];
            key(seed).normal(first, &mut found);
            let wanted = one_by_one(&key(seed), first, len);
            assert!(found.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits()), "seed {seed}");
            for (other, name) in others() {
                let mut numbers = vec![0.0f32; len];
                other(&key(seed), first, &mut numbers);
                assert!(found.iter().zip(&numbers).all(|(a, b)| a.to_bits() == b.to_bits()), "seed {seed}, {name}");
            }
        }
    }

    /// Where logarithm, sine and cosine are near 0 or change their branch.
    #[test]
    fn series_are_within_the_error_at_every_border() {
        let near = |at: u32| at - 40..=at + 40;
        let borders = [40, 1 << 29, 1 << 30, 3 << 29, 1 << 31, 5 << 29, 3 << 30, 7 << 29, u32::MAX - 40, 3_037_000_499];
        let words: Vec<u32> = borders.into_iter().flat_map(near).collect();
        let mut most: f64 = 0.0;
        for &radius in &words {
            for &angle in &words {
                let (across, up) = defined(radius, angle);
                for (x, y, clear) in [series::<false>(radius, angle), series::<true>(radius, angle)] {
                    for (found, wanted) in [(x, across), (y, up)].into_iter().filter(|_| clear) {
                        most = most.max((found / wanted - 1.0).abs());
                    }
                }
            }
        }
        // Half of what is allowed for, and not nothing.
        assert!(most > 0.0 && most < 0.5 * ERROR, "{most:e} of {ERROR:e}");
    }
}
