//! The tile in plain loops: blocks of 4 x 8, which compilers keep in registers on any 64-bit processor.

use super::{COLS, Left, ROWS, TileMut};

const M: usize = 4;
const N: usize = 8;

/// See [`super::tile`].
pub(super) fn tile<const ROW: usize, const STEP: usize>(
    left: Left<'_, ROW, STEP>,
    right: &[f32],
    depth: usize,
    mut out: TileMut<'_>,
    accumulate: bool,
) {
    const { assert!(ROWS.is_multiple_of(M) && COLS.is_multiple_of(N)) };
    for col in (0..out.cols()).step_by(N) {
        for row in (0..out.rows()).step_by(M) {
            let mut sums = [[0.0f32; N]; M];
            for (k, right) in right.as_chunks::<COLS>().0[..depth].iter().enumerate() {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = left.data[(row + i) * ROW + k * STEP];
                    for (sum, &b) in sums.iter_mut().zip(&right[col..col + N]) {
                        *sum += a * b;
                    }
                }
            }
            let (rows, cols) = (M.min(out.rows() - row), N.min(out.cols() - col));
            let mut block = out.part(row, col, rows, cols);
            for (i, sums) in sums.iter().enumerate().take(rows) {
                for (out, &sum) in block.row(i).iter_mut().zip(sums) {
                    *out = if accumulate { *out + sum } else { sum };
                }
            }
        }
    }
}
