//! Exact quantiles in two passes and bounded memory: a float's bits, put in order, are counted by their upper halves,
//! then by the lower halves of those upper halves that hold a wanted rank.

use std::collections::BTreeMap;

/// The quantiles that are shown.
pub(super) const SHARES: [f64; 7] = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99];

/// Counts by upper half: the first pass.
pub(super) struct Upper {
    counts: Vec<u64>,
}

/// Counts by lower half, for the upper halves that matter: the second pass.
pub(super) struct Lower {
    /// For every share: upper half, and rank among its values.
    wanted: Vec<(u16, u64)>,
    counts: BTreeMap<u16, Vec<u64>>,
}

impl Upper {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; 1 << 16] }
    }

    /// Counts a value that is not NaN.
    pub(super) fn add(&mut self, x: f32) {
        self.counts[(key(x) >> 16) as usize] += 1;
    }

    /// Prepares the second pass; `None` if nothing was counted.
    pub(super) fn split(self) -> Option<Lower> {
        let total: u64 = self.counts.iter().sum();
        if total == 0 {
            return None;
        }
        let mut lower = Lower { wanted: Vec::new(), counts: BTreeMap::new() };
        for share in SHARES {
            // Nearest rank: the least value that has at least this share of all values at or below it.
            let mut rank = ((share * total as f64).ceil() as u64).clamp(1, total) - 1;
            let mut upper = 0;
            while self.counts[upper] <= rank {
                rank -= self.counts[upper];
                upper += 1;
            }
            lower.wanted.push((upper as u16, rank));
            lower.counts.entry(upper as u16).or_insert_with(|| vec![0; 1 << 16]);
        }
        Some(lower)
    }
}

impl Lower {
    /// Counts a value that is not NaN.
    pub(super) fn add(&mut self, x: f32) {
        let key = key(x);
        if let Some(counts) = self.counts.get_mut(&((key >> 16) as u16)) {
            counts[(key & 0xffff) as usize] += 1;
        }
    }

    /// The quantiles of [`SHARES`], if the second pass saw what the first one did.
    pub(super) fn quantiles(&self) -> Vec<f32> {
        let one = |&(upper, rank): &(u16, u64)| {
            let mut left = rank;
            let lower = self.counts[&upper].iter().position(|&n| {
                let here = left < n;
                left = left.saturating_sub(n);
                here
            });
            value(u32::from(upper) << 16 | lower.unwrap_or(0xffff) as u32)
        };
        self.wanted.iter().map(one).collect()
    }
}

/// Bits in the order of the values: negative ones reversed, below the positive ones.
fn key(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn value(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_are_those_of_the_sorted_values(mut values in prop::collection::vec(-1e30f32..1e30, 1..500)) {
            let mut upper = Upper::new();
            values.iter().for_each(|&x| upper.add(x));
            let mut lower = upper.split().unwrap();
            values.iter().for_each(|&x| lower.add(x));
            values.sort_by(f32::total_cmp);
            let n = values.len();
            let expected = SHARES.map(|share| values[(share * n as f64).ceil() as usize - 1]);
            prop_assert_eq!(lower.quantiles(), expected);
        }
    }

    #[test]
    fn infinities_and_signed_zeros_keep_their_order() {
        let values = [f32::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, f32::INFINITY];
        assert!(values.map(key).is_sorted());
        assert!(values.map(key).map(value).iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert!(Upper::new().split().is_none());
    }
}
