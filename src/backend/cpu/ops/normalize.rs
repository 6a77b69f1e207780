//! Rows or columns of a matrix divided by their root mean squares. The order of all additions is every backend's: within
//! a row 32 interleaved sums, folded half by half; within a column 64 rows one after the other, then these sums one after
//! the other.

use crate::backend::Axis;
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::reduce::fold_halves;
use crate::backend::cpu::simd::tasks::Need;
use rayon::prelude::*;

/// Interleaved sums of a row.
const LANES: usize = 32;

/// Rows that a column's sum runs over in one go.
const BLOCK: usize = 64;

/// Workspace: for columns a row of divisors, and one of sums for each block of rows.
pub(super) fn need(rows: usize, cols: usize, axis: Axis) -> Need {
    let shared = if axis == Axis::Cols { (1 + rows.div_ceil(BLOCK)) * cols } else { 0 };
    Need { shared, private: 0 }
}

/// Each row of `x` `[rows, cols]` divided by its root mean square, or by `floor` if that is larger.
pub(crate) fn rows(isa: Isa, x: &mut [f32], cols: usize, floor: f32) {
    x.par_chunks_mut(BLOCK * cols).for_each(|x| row_block(isa, x, cols, floor));
}

/// The same of columns. `sums` has room for a row of sums and one more for each block of rows.
pub(crate) fn cols(isa: Isa, x: &mut [f32], cols: usize, floor: f32, sums: &mut [f32]) {
    let (rows, blocks) = (x.len() / cols, x.len().div_ceil(BLOCK * cols));
    let (divisors, sums) = sums[..(1 + blocks) * cols].split_at_mut(cols);
    x.par_chunks(BLOCK * cols).zip(sums.par_chunks_mut(cols)).for_each(|(x, sums)| col_sums(isa, x, sums));
    divisors.fill(0.0);
    for block in sums.chunks_exact(cols) {
        divisors.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
    }
    divisors.iter_mut().for_each(|sum| *sum = divisor(*sum, rows, floor));
    x.par_chunks_mut(BLOCK * cols).for_each(|x| divide(isa, x, divisors));
}

#[inline(always)]
fn divisor(squares: f32, count: usize, floor: f32) -> f32 {
    let rms = (squares / count as f32).sqrt();
    if rms > floor { rms } else { floor }
}

vectorized! {
    fn row_block(x: &mut [f32], cols: usize, floor: f32) {
        for row in x.chunks_exact_mut(cols) {
            let mut lanes = [0.0f32; LANES];
            for chunk in row.chunks(LANES) {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane += x * x;
                }
            }
            let divisor = divisor(fold_halves(lanes), cols, floor);
            row.iter_mut().for_each(|x| *x /= divisor);
        }
    }
}

vectorized! {
    /// Adds up the squares of each column.
    pub(super) fn col_sums(x: &[f32], sums: &mut [f32]) {
        sums.fill(0.0);
        for row in x.chunks_exact(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x * x;
            }
        }
    }
}

vectorized! {
    fn divide(x: &mut [f32], divisors: &[f32]) {
        for row in x.chunks_exact_mut(divisors.len()) {
            for (x, divisor) in row.iter_mut().zip(divisors) {
                *x /= divisor;
            }
        }
    }
}
