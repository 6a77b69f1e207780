//! A keyed permutation of `0..n` that is computed, not stored.
//!
//! A Feistel network permutes the numbers of an even number of bits; a number that falls outside `0..n` is permuted
//! again until it falls inside (cycle walking), which ends because the start of the cycle is inside. The smallest
//! fitting power of four is below `4 n`, so fewer than four rounds of walking are needed on average.

/// Rounds of the network: four suffice for a pseudo-random permutation if the round function is one.
const ROUNDS: u64 = 6;

/// A permutation of `0..n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    n: u64,
    key: u64,
    /// Bits of each half.
    half: u32,
}

impl Permutation {
    /// # Panics
    /// If `n` is 0.
    pub(crate) fn new(n: u64, key: u64) -> Self {
        assert!(n > 0, "a permutation of nothing");
        let bits = u64::BITS - (n - 1).leading_zeros();
        Permutation { n, key, half: bits.div_ceil(2).max(1) }
    }

    /// Where `i` goes; `i` is below `n`.
    pub(crate) fn image(&self, i: u64) -> u64 {
        debug_assert!(i < self.n);
        let mut x = self.network(i);
        while x >= self.n {
            x = self.network(x);
        }
        x
    }

    fn network(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half, x & mask);
        for round in 0..ROUNDS {
            let out = mix(self.key ^ mix(right ^ (round << 56))) & mask;
            (left, right) = (right, left ^ out);
        }
        (left << self.half) | right
    }
}

/// A bijection of 64 bits whose outputs look independent (the finalizer of SplitMix64; Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_permuted_without_repeats() {
        for n in (1..=130).chain([255, 256, 257, 4095, 4096, 4097, 65_537]) {
            let permutation = Permutation::new(n, 42);
            let mut seen = vec![false; n as usize];
            for i in 0..n {
                let image = permutation.image(i) as usize;
                assert!(!std::mem::replace(&mut seen[image], true), "{n}: {image} twice");
            }
        }
    }

    #[test]
    fn the_largest_size_neither_overflows_nor_hangs() {
        let permutation = Permutation::new(u64::MAX, 7);
        let images: std::collections::HashSet<u64> = (0..1000).map(|i| permutation.image(i)).collect();
        assert_eq!(images.len(), 1000);
    }

    /// The first image over many keys is uniform: chi-square over 16 values, 15 degrees of freedom, whose 0.9999
    /// quantile is 44.3.
    #[test]
    fn no_window_comes_first_more_often_than_others() {
        let mut counts = [0f64; 16];
        for key in 0..16_000u64 {
            counts[Permutation::new(16, mix(key)).image(0) as usize] += 1.0;
        }
        let chi: f64 = counts.iter().map(|count| (count - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 44.3, "{chi}: {counts:?}");
    }
}
