//! The tile with AVX-512: 24 of the 32 registers hold sums, two a row of the right panel.

use super::{COLS, Left, Sum, TileMut};
use std::arch::x86_64::*;

/// Elements of a register.
const LANES: usize = 16;

/// See [`super::tile`].
///
/// # Safety
/// The processor has AVX-512 F; `out` is at most 12 x 32; `left` is readable for 12 rows and `right` for a whole panel
/// of `depth`.
#[target_feature(enable = "avx512f,fma")]
pub(crate) unsafe fn tile<const ROW: usize, const STEP: usize>(
    left: Left<'_, ROW, STEP>,
    right: &[f32],
    depth: usize,
    out: TileMut<'_>,
    sum: Sum,
) {
    // SAFETY: as promised by the caller; M rows of the strip are at most its 12, N registers at most its panel.
    unsafe {
        match (out.rows(), out.cols() <= LANES) {
            (9.., false) => kernel::<12, 2, ROW, STEP>(left, right, depth, out, sum),
            (5..=8, false) => kernel::<8, 2, ROW, STEP>(left, right, depth, out, sum),
            (_, false) => kernel::<4, 2, ROW, STEP>(left, right, depth, out, sum),
            (9.., true) => kernel::<12, 1, ROW, STEP>(left, right, depth, out, sum),
            (_, true) => kernel::<8, 1, ROW, STEP>(left, right, depth, out, sum),
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
    sum: Sum,
) {
    let (rows, cols, stride) = (out.rows(), out.cols(), out.stride());
    let (mut left, mut right, out) = (left.data.as_ptr(), right.as_ptr(), out.as_mut_ptr());
    let masks = [tail_mask(cols), tail_mask(cols.saturating_sub(LANES))];
    let at = |i: usize, j: usize| out.wrapping_add(i * stride + j * LANES);
    // SAFETY: row i < rows of the tile; the mask keeps columns below `cols`.
    let old = |i: usize, j: usize| unsafe { _mm512_maskz_loadu_ps(masks[j], at(i, j)) };
    // All indices are literals, here and below, so that the sums are registers at every level of optimisation.
    let mut sums = [[_mm512_setzero_ps(); 2]; 12];
    if sum == Sum::Continued {
        each_row!(I in 0 1 2 3 4 5 6 7 8 9 10 11 => if I < M && I < rows {
            sums[I][0] = old(I, 0);
            if N == 2 {
                sums[I][1] = old(I, 1);
            }
        });
    }
    for _ in 0..depth {
        // SAFETY: `right` holds `depth` rows of COLS >= 16 N elements, `left` element (i, k) for all i < M <= 12.
        unsafe {
            let b =
                [_mm512_loadu_ps(right), if N == 2 { _mm512_loadu_ps(right.add(LANES)) } else { _mm512_setzero_ps() }];
            each_row!(I in 0 1 2 3 4 5 6 7 8 9 10 11 => if I < M {
                let a = _mm512_set1_ps(*left.add(I * ROW));
                sums[I][0] = _mm512_fmadd_ps(a, b[0], sums[I][0]);
                if N == 2 {
                    sums[I][1] = _mm512_fmadd_ps(a, b[1], sums[I][1]);
                }
            });
            (left, right) = (left.wrapping_add(STEP), right.wrapping_add(COLS));
        }
    }
    let write = |i: usize, j: usize, value: __m512| {
        let value = if sum == Sum::Added { _mm512_add_ps(old(i, j), value) } else { value };
        // SAFETY: as for `old`.
        unsafe { _mm512_mask_storeu_ps(at(i, j), masks[j], value) };
    };
    each_row!(I in 0 1 2 3 4 5 6 7 8 9 10 11 => if I < M && I < rows {
        write(I, 0, sums[I][0]);
        if N == 2 {
            write(I, 1, sums[I][1]);
        }
    });
}

/// The first `count` lanes.
#[inline(always)]
pub(in crate::backend::cpu::simd) fn tail_mask(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}

/// `out[k][j] = data[j * stride + k]` for `k < depth` and `j < width`, zero up to `j < COLS`; sixteen by sixteen.
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose(data: &[f32], stride: usize, width: usize, depth: usize, out: &mut [f32]) {
    assert!(width > 0 && (width - 1) * stride + depth <= data.len() && width <= COLS, "{width} rows cut short");
    assert!(depth * COLS <= out.len(), "a panel cut short");
    for col in (0..COLS).step_by(LANES) {
        for from in (0..depth).step_by(LANES) {
            let lanes = tail_mask(depth - from);
            let load = |j: usize| {
                if col + j >= width {
                    return _mm512_setzero_ps();
                }
                // SAFETY: row col + j < width, and of its elements from `from` on only those below `depth`.
                unsafe { _mm512_maskz_loadu_ps(lanes, data.as_ptr().add((col + j) * stride + from)) }
            };
            let columns = transposed(std::array::from_fn(load));
            for (k, &column) in columns.iter().enumerate().take(depth - from) {
                // SAFETY: row from + k < depth of the panel, columns col..col + 16 <= COLS.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr().add((from + k) * COLS + col), column) };
            }
        }
    }
}

/// Sixteen rows of `words`, `stride` apart, become the columns of `out`.
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose_block(words: &[f32], stride: usize, mut out: TileMut<'_>) {
    let (count, pitch) = (out.rows(), out.stride());
    assert!(count == 0 || (LANES - 1) * stride + count <= words.len(), "rows cut short");
    assert_eq!(out.cols(), LANES, "columns of a block");
    let out = out.as_mut_ptr();
    for from in (0..count).step_by(LANES) {
        let lanes = tail_mask(count - from);
        // SAFETY: row j < LANES, and of its elements from `from` on only those below `count`.
        let load = |j: usize| unsafe { _mm512_maskz_loadu_ps(lanes, words.as_ptr().add(j * stride + from)) };
        let columns = transposed(std::array::from_fn(load));
        for (k, &column) in columns.iter().enumerate().take(count - from) {
            // SAFETY: row from + k < count of the tile, which is a register wide.
            unsafe { _mm512_storeu_ps(out.add((from + k) * pitch), column) };
        }
    }
}

/// Sixteen rows to sixteen columns: pairs and quads within 128 bits, then the 128-bit quarters, twice.
#[target_feature(enable = "avx512f")]
fn transposed(r: [__m512; LANES]) -> [__m512; LANES] {
    let mut quads = [_mm512_setzero_ps(); LANES];
    for i in (0..LANES).step_by(4) {
        let (ab, ab_high) = (_mm512_unpacklo_ps(r[i], r[i + 1]), _mm512_unpackhi_ps(r[i], r[i + 1]));
        let (cd, cd_high) = (_mm512_unpacklo_ps(r[i + 2], r[i + 3]), _mm512_unpackhi_ps(r[i + 2], r[i + 3]));
        // quads[i + c]: in each quarter q, column 4 q + c of rows i..i + 4.
        quads[i] = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
        quads[i + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
        quads[i + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high);
        quads[i + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high);
    }
    let mut out = [_mm512_setzero_ps(); LANES];
    for c in 0..4 {
        let (a, b, d, e) = (quads[c], quads[4 + c], quads[8 + c], quads[12 + c]);
        let (ab_even, ab_odd) =
            (_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b));
        let (de_even, de_odd) =
            (_mm512_shuffle_f32x4::<0b10_00_10_00>(d, e), _mm512_shuffle_f32x4::<0b11_01_11_01>(d, e));
        out[c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, de_even);
        out[8 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, de_even);
        out[4 + c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, de_odd);
        out[12 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, de_odd);
    }
    out
}
