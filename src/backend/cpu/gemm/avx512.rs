//! The tile with AVX-512: 24 of the 32 registers hold sums, two a row of the right panel.

use super::{COLS, Left, TileMut};
use std::arch::x86_64::*;

/// Elements of a register.
const LANES: usize = 16;

/// See [`super::tile`].
///
/// # Safety
/// The processor has AVX-512 F; `out` is at most 12 x 32; `left` is readable for 12 rows and `right` for a whole panel
/// of `depth`.
#[target_feature(enable = "avx512f,fma")]
pub(super) unsafe fn tile<const ROW: usize, const STEP: usize>(
    left: Left<'_, ROW, STEP>,
    right: &[f32],
    depth: usize,
    out: TileMut<'_>,
    accumulate: bool,
) {
    // SAFETY: as promised by the caller; M rows of the strip are at most its 12, N registers at most its panel.
    unsafe {
        match (out.rows(), out.cols() <= LANES) {
            (9.., false) => kernel::<12, 2, ROW, STEP>(left, right, depth, out, accumulate),
            (5..=8, false) => kernel::<8, 2, ROW, STEP>(left, right, depth, out, accumulate),
            (_, false) => kernel::<4, 2, ROW, STEP>(left, right, depth, out, accumulate),
            (9.., true) => kernel::<12, 1, ROW, STEP>(left, right, depth, out, accumulate),
            (_, true) => kernel::<8, 1, ROW, STEP>(left, right, depth, out, accumulate),
        }
    }
}

/// M rows by N registers, of which `out` receives those it has.
///
/// # Safety
/// As for [`tile`], with `out` at most M x 16 N.
#[target_feature(enable = "avx512f,fma")]
unsafe fn kernel<const M: usize, const N: usize, const ROW: usize, const STEP: usize>(
    left: Left<'_, ROW, STEP>,
    right: &[f32],
    depth: usize,
    mut out: TileMut<'_>,
    accumulate: bool,
) {
    let (rows, cols, stride) = (out.rows(), out.cols(), out.stride());
    let (mut left, mut right, out) = (left.0.as_ptr(), right.as_ptr(), out.as_mut_ptr());
    let mut sums = [[_mm512_setzero_ps(); N]; M];
    for _ in 0..depth {
        // SAFETY: `right` holds `depth` rows of COLS >= 16 N elements, `left` element (i, k) for all i < M <= 12.
        unsafe {
            let b: [__m512; N] = std::array::from_fn(|j| _mm512_loadu_ps(right.add(j * LANES)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*left.add(i * ROW));
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    *sum = _mm512_fmadd_ps(a, b, *sum);
                }
            }
            (left, right) = (left.wrapping_add(STEP), right.wrapping_add(COLS));
        }
    }
    for (i, sums) in sums.iter().enumerate().take(rows) {
        for (j, &sum) in sums.iter().enumerate() {
            let mask = tail_mask(cols.saturating_sub(j * LANES));
            // SAFETY: row i < rows of the tile; the mask keeps columns below `cols`.
            unsafe {
                let to = out.add(i * stride).wrapping_add(j * LANES);
                let sum = if accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum) } else { sum };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// The first `count` lanes.
#[inline(always)]
fn tail_mask(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}
