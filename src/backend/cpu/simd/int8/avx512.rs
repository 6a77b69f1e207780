//! Integer products with AVX-512 VNNI, which multiplies and sums four bytes of each lane at once: 12 registers hold sums of a
//! group, 12 those of all groups.

use super::{COLS, Groups, LeftRow, Panel, ROWS, Range, TileMut};
use crate::backend::cpu::simd::gemm::tail_mask;
use std::arch::x86_64::*;

/// Lanes of a register.
const LANES: usize = 16;

/// See [`super::tile`].
///
/// # Safety
/// The processor has AVX-512 F and VNNI; `out` is at most 6 x 32, `left` holds 6 rows and `panel` a panel of `groups`, of
/// which the range is a part.
#[target_feature(enable = "avx512f,avx512vnni,fma")]
pub(super) unsafe fn tile(groups: Groups, left: &[f32], panel: &[f32], range: Range, out: TileMut<'_>) {
    // SAFETY: as promised by the caller; N registers are at most the tile's columns.
    unsafe {
        match (out.cols() <= LANES, groups.offsets) {
            (false, false) => kernel::<2, false>(groups, left, panel, range, out),
            (false, true) => kernel::<2, true>(groups, left, panel, range, out),
            (true, false) => kernel::<1, false>(groups, left, panel, range, out),
            (true, true) => kernel::<1, true>(groups, left, panel, range, out),
        }
    }
}

/// # Safety
/// As for [`tile`], with at most 16 N columns.
#[target_feature(enable = "avx512f,avx512vnni,fma")]
unsafe fn kernel<const N: usize, const OFFSETS: bool>(
    groups: Groups,
    left: &[f32],
    panel: &[f32],
    range: Range,
    mut out: TileMut<'_>,
) {
    let (row, wide) = (LeftRow::of(groups), Panel::of(groups));
    let (rows, cols, stride) = (out.rows(), out.cols(), out.stride());
    let (left, panel, out) = (left.as_ptr(), panel.as_ptr(), out.as_mut_ptr());
    let masks = [tail_mask(cols), tail_mask(cols.saturating_sub(LANES))];
    let at = |i: usize, j: usize| out.wrapping_add(i * stride + j * LANES);
    let mut totals = [[_mm512_setzero_ps(); 2]; ROWS];
    each_row!(I in 0 1 2 3 4 5 => if range.goes_on && I < rows {
        // SAFETY: row I of the tile; the masks keep columns below `cols`.
        unsafe {
            totals[I][0] = _mm512_maskz_loadu_ps(masks[0], at(I, 0));
            if N == 2 {
                totals[I][1] = _mm512_maskz_loadu_ps(masks[1], at(I, 1));
            }
        }
    });
    for g in range.first..range.first + range.count {
        // SAFETY: the panel has rows of 32 words for every word of its groups, then as many scales for each of them and, if
        // OFFSETS, offsets; each of six left rows has as many words and three numbers for each group.
        unsafe {
            let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
            each_row!(I in 0 1 2 3 4 5 => {
                let start = _mm512_set1_epi32(left.add(I * row.len() + row.starts() + g).cast::<i32>().read_unaligned());
                sums[I] = [start; 2];
            });
            for k in g * groups.words..(g + 1) * groups.words {
                let weights = panel.add(k * COLS).cast::<__m512i>();
                let low = _mm512_loadu_si512(weights);
                let high = if N == 2 { _mm512_loadu_si512(weights.add(1)) } else { low };
                each_row!(I in 0 1 2 3 4 5 => {
                    let x = _mm512_set1_epi32(left.add(I * row.len() + k).cast::<i32>().read_unaligned());
                    sums[I][0] = _mm512_dpbusd_epi32(sums[I][0], low, x);
                    if N == 2 {
                        sums[I][1] = _mm512_dpbusd_epi32(sums[I][1], high, x);
                    }
                });
            }
            let pair = |from: usize| {
                let from = panel.add(from + g * COLS);
                [_mm512_loadu_ps(from), if N == 2 { _mm512_loadu_ps(from.add(LANES)) } else { _mm512_setzero_ps() }]
            };
            let scales = pair(wide.codes());
            each_row!(I in 0 1 2 3 4 5 => {
                let scale = _mm512_set1_ps(*left.add(I * row.len() + row.scales() + g));
                for j in 0..N {
                    let product = _mm512_cvtepi32_ps(sums[I][j]);
                    totals[I][j] = _mm512_fmadd_ps(product, _mm512_mul_ps(scales[j], scale), totals[I][j]);
                }
            });
            if OFFSETS {
                let offsets = pair(wide.offsets());
                each_row!(I in 0 1 2 3 4 5 => {
                    let mean = _mm512_set1_ps(*left.add(I * row.len() + row.means() + g));
                    for j in 0..N {
                        totals[I][j] = _mm512_fmadd_ps(offsets[j], mean, totals[I][j]);
                    }
                });
            }
        }
    }
    each_row!(I in 0 1 2 3 4 5 => if I < rows {
        // SAFETY: as above.
        unsafe {
            _mm512_mask_storeu_ps(at(I, 0), masks[0], totals[I][0]);
            if N == 2 {
                _mm512_mask_storeu_ps(at(I, 1), masks[1], totals[I][1]);
            }
        }
    });
}
