//! The tile in loops, for processors without AMX: the same bits, at no more than the speed of float32.

use super::{COLS, PANEL, STRIP, WORDS};
use crate::backend::cpu::simd::isa::{madd, vectorized};
use crate::backend::cpu::simd::tile::TileMut;

/// Rows whose chains are kept at once.
const M: usize = 4;
/// Columns whose chains are kept at once.
const N: usize = 16;

vectorized! {
    /// See [`super::tile`].
    pub(super) fn tile(left: &[f32], right: &[f32], blocks: usize, out: TileMut<'_>, goes_on: bool) {
        let mut out = out;
        for row in (0..out.rows()).step_by(M) {
            for col in (0..out.cols()).step_by(N) {
                let (rows, cols) = (M.min(out.rows() - row), N.min(out.cols() - col));
                let mut part = out.part(row, col, rows, cols);
                let mut sums = [[0.0f32; N]; M];
                if goes_on {
                    for (i, sums) in sums.iter_mut().enumerate().take(rows) {
                        sums.iter_mut().zip(part.row(i)).for_each(|(sum, &mut old)| *sum = normal(old));
                    }
                }
                for block in 0..blocks {
                    let (left, right) = (&left[block * STRIP + row * WORDS..], &right[block * PANEL + col..]);
                    add_block::<FMA>(left, right, &mut sums);
                }
                for (i, sums) in sums.iter().enumerate().take(rows) {
                    part.row(i).copy_from_slice(&sums[..cols]);
                }
            }
        }
    }
}

/// Adds a block of products: the sum of two chains.
#[inline(always)]
fn add_block<const FMA: bool>(left: &[f32], right: &[f32], sums: &mut [[f32; N]; M]) {
    let mut chains = [[[0.0f32; N]; M]; 2];
    for word in 0..WORDS {
        let pairs = right[word * COLS..].first_chunk::<N>().expect("a panel has whole rows");
        let halves = [pairs.map(former), pairs.map(latter)];
        for i in 0..M {
            let pair = left[i * WORDS + word];
            for (half, a) in [former(pair), latter(pair)].into_iter().enumerate() {
                for j in 0..N {
                    chains[half][i][j] = madd::<FMA>(a, halves[half][j], chains[half][i][j]);
                }
            }
        }
    }
    for i in 0..M {
        for j in 0..N {
            sums[i][j] = normal(sums[i][j] + (chains[0][i][j] + chains[1][i][j]));
        }
    }
}

/// The number in the lower half of a word.
#[inline(always)]
fn former(word: f32) -> f32 {
    f32::from_bits(word.to_bits() << 16)
}

/// The number in the upper half.
#[inline(always)]
fn latter(word: f32) -> f32 {
    f32::from_bits(word.to_bits() & 0xffff_0000)
}

/// Subnormal numbers are 0 in AMX. Sums of products never are; what they are added to may be.
#[inline(always)]
fn normal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}
