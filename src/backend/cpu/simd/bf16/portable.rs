//! The tile in plain loops, for processors of any kind: the same bits.

use super::{COLS, PANEL, ROWS, STRIP, WORDS, former, latter};
use crate::backend::cpu::simd::tile::TileMut;

/// A tile that the output has all of.
pub(super) fn tile(left: &[f32], right: &[f32], blocks: usize, mut out: TileMut<'_>, goes_on: bool) {
    for row in 0..ROWS {
        let out = out.row(row);
        let mut sums = [0.0f32; COLS];
        if goes_on {
            sums.iter_mut().zip(&*out).for_each(|(sum, &old)| *sum = normal(old));
        }
        for block in 0..blocks {
            let left = &left[block * STRIP + row * WORDS..][..WORDS];
            let mut chains = [[0.0f32; COLS]; 2];
            for (word, pairs) in left.iter().zip(right[block * PANEL..].chunks_exact(COLS)) {
                for (j, pair) in pairs.iter().enumerate() {
                    chains[0][j] += former(*word) * former(*pair);
                    chains[1][j] += latter(*word) * latter(*pair);
                }
            }
            let [formers, latters] = &chains;
            for (sum, (a, b)) in sums.iter_mut().zip(formers.iter().zip(latters)) {
                *sum = normal(*sum + (a + b));
            }
        }
        out.copy_from_slice(&sums);
    }
}

/// Subnormal numbers are 0 in AMX. Sums of products never are; what they are added to may be.
pub(super) fn normal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}
