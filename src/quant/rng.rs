//! The counter-based generator Philox4x32-10 (Salmon et al., SC 2011) and how its output is scattered to elements.
//!
//! A random number is a pure function of (seed, step, tensor, element, usage): the same on every backend, for any
//! number of threads, and after a resume.

use super::BLOCK;

/// What words are multiplied by in each round.
pub(crate) const MULTIPLIERS: (u32, u32) = (0xD251_1F53, 0xCD9E_8D57);
/// What the key grows by from round to round.
pub(crate) const WEYL: (u32, u32) = (0x9E37_79B9, 0xBB67_AE85);
/// Rounds.
pub(crate) const ROUNDS: usize = 10;

/// Philox4x32 with ten rounds.
#[inline(always)]
pub const fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut k, mut l]) = (counter, key);
    let mut round = 0;
    while round < ROUNDS {
        let x = a as u64 * MULTIPLIERS.0 as u64;
        let y = c as u64 * MULTIPLIERS.1 as u64;
        (a, b, c, d) = ((y >> 32) as u32 ^ b ^ k, y as u32, (x >> 32) as u32 ^ d ^ l, x as u32);
        k = k.wrapping_add(WEYL.0);
        l = l.wrapping_add(WEYL.1);
        round += 1;
    }
    [a, b, c, d]
}

/// What a random number is for; different uses never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RngUse {
    /// Stochastic rounding of a weight.
    Weight = 0,
    /// Stochastic rounding of the first moment.
    M = 1,
    /// Stochastic rounding of the second moment.
    V = 2,
    /// Initial values.
    Init = 3,
    /// SPAM's sparse mask.
    Mask = 4,
    /// Drawing tokens.
    Sample = 5,
    /// Four-bit packing of a layer's kept input; the tensor is the layer's number.
    ActivationPack = 6,
    /// Random projections and the starts of subspaces; the step is the number of the refresh.
    Projection = 7,
    /// Stochastic rounding of a stored projection.
    StoredProjection = 8,
    /// Inputs that an adapter leaves out; the tensor is its A.
    Dropout = 9,
    /// Stochastic rounding of a merged weight.
    Merge = 10,
    /// Stochastic rounding of a gradient that is multiplied by a weight; the tensor is the weight.
    GradInput = 11,
    /// Stochastic rounding of a gradient that is multiplied by a layer's input; the tensor is the weight.
    GradWeight = 12,
}

/// The random numbers of one tensor in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RngKey {
    /// Seed of the run.
    pub seed: u64,
    /// Step, counted from 1; 0 for what happens before training.
    pub step: u32,
    /// Number of the tensor in the model.
    pub tensor: u32,
    /// What the numbers are for.
    pub usage: RngUse,
}

/// Counters of the generator that a block of 32 elements takes: each gives eight numbers of 16 bits.
pub(crate) const COUNTERS: usize = BLOCK / 8;

impl RngKey {
    /// The four words of counter `counter`.
    #[inline(always)]
    pub fn words(&self, counter: u64) -> [u32; 4] {
        let high = (counter >> 32) as u32 & 0x00ff_ffff | (self.usage as u32) << 24;
        philox([counter as u32, high, self.tensor, self.step], [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// The words of `N` counters from `first` on, word by word. Lanes are 64 bits wide and hold 32: the products need
    /// them so, and nothing has to be widened or narrowed between rounds.
    #[inline(always)]
    pub(super) fn lanes<const N: usize>(&self, first: u64) -> [[u64; N]; 4] {
        const LOW: u64 = 0xffff_ffff;
        let (mut a, mut b) = ([0; N], [0; N]);
        let (mut c, mut d) = ([u64::from(self.tensor); N], [u64::from(self.step); N]);
        for i in 0..N {
            let counter = first + i as u64;
            a[i] = counter & LOW;
            b[i] = counter >> 32 & 0x00ff_ffff | (self.usage as u64) << 24;
        }
        let (mut k, mut l) = (self.seed as u32, (self.seed >> 32) as u32);
        for _ in 0..ROUNDS {
            for i in 0..N {
                let x = (a[i] & LOW) * u64::from(MULTIPLIERS.0);
                let y = (c[i] & LOW) * u64::from(MULTIPLIERS.1);
                a[i] = y >> 32 ^ b[i] ^ u64::from(k);
                b[i] = y & LOW;
                c[i] = x >> 32 ^ d[i] ^ u64::from(l);
                d[i] = x & LOW;
            }
            k = k.wrapping_add(WEYL.0);
            l = l.wrapping_add(WEYL.1);
        }
        [a, b, c, d]
    }

    /// Fills `out` with uniform numbers in [0, 1), multiples of 2^-16, for the elements from `first` on. Element
    /// `k` of block `B` (32 elements) uses counter `4 B + k % 4`, half `k / 4 % 2` (low first) of its word `k / 8`:
    /// neighbours take neighbouring counters, so that vectors and warps write what they computed side by side.
    ///
    /// # Panics
    /// If `first` or the length is not a multiple of [`BLOCK`].
    #[inline(always)]
    pub fn uniform(&self, first: u64, out: &mut [f32]) {
        assert!(first.is_multiple_of(BLOCK as u64) && out.len().is_multiple_of(BLOCK));
        let mut counter = first / BLOCK as u64 * COUNTERS as u64;
        let mut pairs = out.chunks_exact_mut(2 * BLOCK);
        for blocks in &mut pairs {
            scatter(&self.lanes::<{ 2 * COUNTERS }>(counter), blocks);
            counter += 2 * COUNTERS as u64;
        }
        let rest = pairs.into_remainder();
        if !rest.is_empty() {
            scatter(&self.lanes::<COUNTERS>(counter), rest);
        }
    }

    /// [`RngKey::uniform`] for any number of elements.
    ///
    /// # Panics
    /// If `first` is not a multiple of [`BLOCK`].
    pub fn uniform_row(&self, first: u64, out: &mut [f32]) {
        let whole = out.len() / BLOCK * BLOCK;
        self.uniform(first, &mut out[..whole]);
        for (element, out) in (first + whole as u64..).zip(&mut out[whole..]) {
            *out = self.uniform_at(element);
        }
    }

    /// The number of one element, as [`RngKey::uniform`] places it.
    #[inline(always)]
    pub fn uniform_at(&self, element: u64) -> f32 {
        let (block, k) = (element / BLOCK as u64, (element % BLOCK as u64) as usize);
        let word = self.words(block * COUNTERS as u64 + (k % COUNTERS) as u64)[k / 8];
        (word >> (k / 4 % 2 * 16) & 0xffff) as f32 * (1.0 / 65536.0)
    }
}

/// Eight numbers out of each lane's four words, to their elements.
#[inline(always)]
fn scatter<const N: usize>(words: &[[u64; N]; 4], out: &mut [f32]) {
    for (i, word) in words.iter().enumerate() {
        for (half, shift) in [0, 16].into_iter().enumerate() {
            for (block, lanes) in word.chunks_exact(COUNTERS).enumerate() {
                let at = block * BLOCK + (2 * i + half) * COUNTERS;
                for (out, lane) in out[at..at + COUNTERS].iter_mut().zip(lanes) {
                    // Through i32, for which every instruction set converts.
                    *out = (lane >> shift & 0xffff) as i32 as f32 * (1.0 / 65536.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn one_element_and_many_agree() {
        let key = RngKey { seed: 7 << 40 | 3, step: 9, tensor: 4, usage: RngUse::M };
        let mut many = [0.0; 224];
        key.uniform(1 << 36, &mut many);
        for (i, &u) in many.iter().enumerate() {
            assert_eq!(u, key.uniform_at((1 << 36) + i as u64));
            assert!((0.0..1.0).contains(&u));
        }
    }

    #[test]
    fn normal_has_its_moments() {
        let mut x = vec![0.0; 100_000];
        RngKey { seed: 1, step: 0, tensor: 0, usage: RngUse::Init }.normal(0, &mut x);
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
        // Four standard errors: 1/sqrt(n) for the mean, sqrt(2/n) for the variance.
        assert!(mean.abs() < 0.0127 && (var - 1.0).abs() < 0.018, "{mean} {var}");
    }
}
