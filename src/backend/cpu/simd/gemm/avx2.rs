//! The tile with AVX2 and FMA: four blocks of 6 x 16; 12 of the 16 registers hold sums.

use super::{COLS, Left, ROWS, Sum, TileMut};
use std::arch::x86_64::*;

/// Elements of a register.
const LANES: usize = 8;
/// Rows of a block.
const M: usize = 6;
/// Registers across a block.
const N: usize = 2;

/// See [`super::tile`].
///
/// # Safety
/// The processor has AVX2 and FMA; `out` is at most 12 x 32; `left` is readable for 12 rows and `right` for a whole
/// panel of `depth`.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn tile<const ROW: usize, const STEP: usize>(
    left: Left<'_, ROW, STEP>,
    right: &[f32],
    depth: usize,
    mut out: TileMut<'_>,
    sum: Sum,
) {
    const { assert!(ROWS.is_multiple_of(M) && COLS.is_multiple_of(N * LANES)) };
    for col in (0..out.cols()).step_by(N * LANES) {
        for row in (0..out.rows()).step_by(M) {
            let (rows, cols) = (M.min(out.rows() - row), (N * LANES).min(out.cols() - col));
            let block = out.part(row, col, rows, cols);
            // SAFETY: blocks divide the strip and the panel, so the caller's promise covers each of them.
            unsafe {
                let (left, right) = (left.data.as_ptr().add(row * ROW), right.as_ptr().add(col));
                kernel::<ROW, STEP>(left, right, depth, block, sum);
            }
        }
    }
}

/// One block.
///
/// # Safety
/// `left` is readable for elements (i, k), i < 6, k < `depth`; `right` for 16 elements every [`COLS`].
#[target_feature(enable = "avx2,fma")]
unsafe fn kernel<const ROW: usize, const STEP: usize>(
    mut left: *const f32,
    mut right: *const f32,
    depth: usize,
    mut out: TileMut<'_>,
    sum: Sum,
) {
    // All indices are literals, here and below, so that the sums are registers at every level of optimisation.
    let mut sums = [[_mm256_setzero_ps(); N]; M];
    if sum == Sum::Continued {
        let rows = out.rows();
        each_row!(I in 0 1 2 3 4 5 => if I < rows { sums[I] = load(out.row(I)) });
    }
    for _ in 0..depth {
        // SAFETY: as the caller promises.
        unsafe {
            let b = [_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(LANES))];
            each_row!(I in 0 1 2 3 4 5 => {
                let a = _mm256_set1_ps(*left.add(I * ROW));
                sums[I] = [_mm256_fmadd_ps(a, b[0], sums[I][0]), _mm256_fmadd_ps(a, b[1], sums[I][1])];
            });
        }
        (left, right) = (left.wrapping_add(STEP), right.wrapping_add(COLS));
    }
    let rows = out.rows();
    each_row!(I in 0 1 2 3 4 5 => if I < rows { store(sums[I], out.row(I), sum == Sum::Added) });
}

/// The old values of a row, zero beyond its end.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(from: &[f32]) -> [__m256; N] {
    if let Some(row) = from.first_chunk::<{ N * LANES }>() {
        // SAFETY: register j is LANES of the chunk's N LANES elements.
        return std::array::from_fn(|j| unsafe { _mm256_loadu_ps(row.as_ptr().add(j * LANES)) });
    }
    let mut row = [0.0f32; N * LANES];
    for (to, &from) in row.iter_mut().zip(from) {
        *to = from;
    }
    // SAFETY: as above.
    std::array::from_fn(|j| unsafe { _mm256_loadu_ps(row.as_ptr().add(j * LANES)) })
}

/// Replaces the values of a row, or adds to them.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn store(sums: [__m256; N], out: &mut [f32], add: bool) {
    if let Some(row) = out.first_chunk_mut::<{ N * LANES }>() {
        for (j, sum) in sums.into_iter().enumerate() {
            let to = row.as_mut_ptr().wrapping_add(j * LANES);
            // SAFETY: register j is LANES of the chunk's N LANES elements.
            unsafe { _mm256_storeu_ps(to, if add { _mm256_add_ps(_mm256_loadu_ps(to), sum) } else { sum }) };
        }
        return;
    }
    let mut row = [0.0f32; N * LANES];
    for (to, sum) in row.chunks_exact_mut(LANES).zip(sums) {
        // SAFETY: each chunk has exactly the elements of a register.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), sum) };
    }
    for (out, sum) in out.iter_mut().zip(row) {
        *out = if add { *out + sum } else { sum };
    }
}
