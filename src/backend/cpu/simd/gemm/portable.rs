//! The tile in plain loops: blocks of 4 x 8, which compilers keep in registers on any 64-bit processor.

use super::{COLS, Left, ROWS, Sum, TileMut};

const M: usize = 4;
const N: usize = 8;

/// See [`super::tile`].
pub(crate) fn tile<const ROW: usize, const STEP: usize>(
    left: Left<'_, ROW, STEP>,
    right: &[f32],
    depth: usize,
    mut out: TileMut<'_>,
    sum: Sum,
) {
    const { assert!(ROWS.is_multiple_of(M) && COLS.is_multiple_of(N)) };
    for col in (0..out.cols()).step_by(N) {
        for row in (0..out.rows()).step_by(M) {
            let (rows, cols) = (M.min(out.rows() - row), N.min(out.cols() - col));
            let mut block = out.part(row, col, rows, cols);
            let mut sums = [[0.0f32; N]; M];
            if sum == Sum::Continued {
                for (i, sums) in sums.iter_mut().enumerate().take(rows) {
                    sums[..cols].copy_from_slice(block.row(i));
                }
            }
            for (k, right) in right.as_chunks::<COLS>().0[..depth].iter().enumerate() {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = left.data[(row + i) * ROW + k * STEP];
                    for (sum, &b) in sums.iter_mut().zip(&right[col..col + N]) {
                        *sum += a * b;
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate().take(rows) {
                for (out, &value) in block.row(i).iter_mut().zip(sums) {
                    *out = if sum == Sum::Added { *out + value } else { value };
                }
            }
        }
    }
}
