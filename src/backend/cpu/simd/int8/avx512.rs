//! Integer products with AVX-512 VNNI, which multiplies and sums four bytes of each lane at once: 12 registers hold sums of a
//! group, 12 those of all groups.

use super::{COLS, Groups, LeftRow, Panel, ROWS, Range, TileMut};
use crate::backend::cpu::simd::gemm::tail_mask;
use crate::quant::RowDecoder;
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

/// How a row's integers are stored.
#[derive(Clone, Copy)]
struct Stored<'a> {
    bytes: &'a [u8],
    nibbles: Option<&'a [u8; 16]>,
}

impl Stored<'_> {
    /// The integers of the blocks `block` and, if BOTH, `block + 1`; else zeros follow. PLAIN: they are nibbles.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL, and there are such blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn pair<const PLAIN: bool, const BOTH: bool>(&self, block: usize) -> __m512i {
        // SAFETY: as promised by the caller; masks leave out the second block where it is missing.
        unsafe {
            if !PLAIN && self.nibbles.is_none() {
                let bytes = _mm512_maskz_loadu_epi64(if BOTH { 0xff } else { 0x0f }, self.at(32 * block));
                return _mm512_xor_si512(bytes, _mm512_set1_epi8(i8::MIN));
            }
            let bytes = _mm256_maskz_loadu_epi64(if BOTH { 0xf } else { 0x3 }, self.at(16 * block));
            // Both halves of a block beside each other; of the second the upper nibbles are wanted.
            let order = _mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0);
            let twice = _mm512_permutexvar_epi64(order, _mm512_castsi256_si512(bytes));
            let shifted = _mm512_mask_srli_epi16::<4>(twice, 0xff00_ff00, twice);
            let nibbles = _mm512_and_si512(shifted, _mm512_set1_epi8(15));
            match self.nibbles.filter(|_| !PLAIN) {
                None => nibbles,
                Some(meanings) => {
                    let meanings = _mm_loadu_si128(meanings.as_ptr().cast());
                    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(meanings), nibbles)
                }
            }
        }
    }

    fn at(&self, byte: usize) -> *const i64 {
        self.bytes.as_ptr().wrapping_add(byte).cast()
    }
}

/// Rows of a weight at a time: they share what is read of the inputs.
const AT_ONCE: usize = 2;

/// See [`super::dots`].
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and VNNI; `left` holds a row of `groups`, whose words are multiples of eight, for each row
/// of `out`, and `w` has `groups` and rows `first..first + out.cols()`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn dots(
    groups: Groups,
    left: &[f32],
    weights: (&RowDecoder<'_>, usize),
    numbers: &mut [f32],
    out: TileMut<'_>,
    goes_on: bool,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        match weights.0.integers().is_plain() {
            true => all_dots::<true>(groups, left, weights, numbers, out, goes_on),
            false => all_dots::<false>(groups, left, weights, numbers, out, goes_on),
        }
    }
}

/// # Safety
/// As for [`dots`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn all_dots<const PLAIN: bool>(
    groups: Groups,
    left: &[f32],
    (w, first): (&RowDecoder<'_>, usize),
    numbers: &mut [f32],
    mut out: TileMut<'_>,
    goes_on: bool,
) {
    let row = LeftRow::of(groups).len();
    for j in (0..out.cols()).step_by(AT_ONCE) {
        let both = j + 1 < out.cols();
        for t in 0..out.rows() {
            // SAFETY: as promised by the caller; there is a second row where it is asked for.
            let sums = unsafe {
                match both {
                    true => dot::<PLAIN, 2>(groups, &left[t * row..], w, first + j, numbers),
                    false => dot::<PLAIN, 1>(groups, &left[t * row..], w, first + j, numbers),
                }
            };
            for (y, sum) in out.row(t)[j..].iter_mut().zip(&sums[..1 + usize::from(both)]) {
                *y = if goes_on { *y + sum } else { *sum };
            }
        }
    }
}

/// Dot products of a row of inputs with R rows of a weight, at most two.
///
/// # Safety
/// As for [`dots`], for one row of `left` and rows `first..first + R`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn dot<const PLAIN: bool, const R: usize>(
    groups: Groups,
    left: &[f32],
    w: &RowDecoder<'_>,
    first: usize,
    numbers: &mut [f32],
) -> [f32; AT_ONCE] {
    let integers = w.integers();
    let nothing = Stored { bytes: &[], nibbles: integers.nibbles.as_ref() };
    let (mut stored, mut means) = ([nothing; R], [_mm512_setzero_ps(); R]);
    for (r, scales) in numbers.chunks_exact_mut(groups.count).take(R).enumerate() {
        stored[r].bytes = w.integer_bytes(first + r);
        prefetch(stored[r].bytes);
        match w.half_scales(first + r) {
            // SAFETY: scales of half precision, and as promised by the caller.
            Some(halves) => means[r] = unsafe { multiply_scales(groups, left, halves, scales) },
            None => {
                w.integer_scales(first + r, scales, &mut []);
                multiply(groups, left, scales);
            }
        }
    }
    // SAFETY: as promised by the caller; there are the scales of R rows.
    let sums = unsafe { sums::<PLAIN, R>(groups, left, stored, numbers) };
    let mut out = [0.0; AT_ONCE];
    for (out, (sums, means)) in out.iter_mut().zip(sums.into_iter().zip(means)) {
        *out = if groups.offsets { fold(sums) + fold(means) } else { fold(sums) };
    }
    out
}

/// How far ahead of a row its integers are asked for, in bytes: the processor's own prefetching ends with a page.
const AHEAD: usize = 2048;

/// Asks for what lies [`AHEAD`] of a row, as much as the row is long.
#[inline]
#[target_feature(enable = "sse")]
fn prefetch(row: &[u8]) {
    for line in (0..row.len()).step_by(64) {
        // A hint: nothing is read, wherever it points.
        _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(AHEAD + line).cast());
    }
}

/// Sets `scales` to the products of a row's scales, of half precision, with those of the inputs; gives the sums of offsets times
/// means.
///
/// # Safety
/// As for [`dots`], for one row of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn multiply_scales(
    groups: Groups,
    left: &[f32],
    (halves, offsets): (&[u8], &[u8]),
    scales: &mut [f32],
) -> __m512 {
    let (row, left, mut means) = (LeftRow::of(groups), left.as_ptr(), _mm512_setzero_ps());
    for g in (0..groups.count).step_by(LANES) {
        let there = tail_mask(groups.count - g);
        // SAFETY: as promised by the caller; the mask leaves out groups that do not exist.
        unsafe {
            let scale = read_halves(halves, g, there);
            let product = _mm512_mul_ps(scale, _mm512_maskz_loadu_ps(there, left.add(row.scales() + g)));
            _mm512_mask_storeu_ps(scales.as_mut_ptr().add(g), there, product);
            if groups.offsets {
                let mean = _mm512_maskz_loadu_ps(there, left.add(row.means() + g));
                means = _mm512_mask3_fmadd_ps(read_halves(offsets, g, there), mean, means, there);
            }
        }
    }
    means
}

/// Multiplies a row's scales by those of the inputs.
fn multiply(groups: Groups, left: &[f32], scales: &mut [f32]) {
    let own = &left[LeftRow::of(groups).scales()..][..groups.count];
    scales.iter_mut().zip(own).for_each(|(scale, own)| *scale *= own);
}

/// Numbers of half precision from number `from` on, as many as the mask says.
///
/// # Safety
/// There are as many.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn read_halves(bytes: &[u8], from: usize, there: __mmask16) -> __m512 {
    // SAFETY: as promised by the caller.
    _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(there, bytes.as_ptr().add(2 * from).cast()) })
}

/// The sums of all groups of R rows, lane by lane; `scales` are those of both sides, multiplied, row after row.
///
/// # Safety
/// As for [`dots`], for one row of `left` and R of the weight.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
unsafe fn sums<const PLAIN: bool, const R: usize>(
    groups: Groups,
    left: &[f32],
    stored: [Stored<'_>; R],
    scales: &[f32],
) -> [__m512; R] {
    let row = LeftRow::of(groups);
    let mut sums = [_mm512_setzero_ps(); R];
    // SAFETY: as promised by the caller: blocks, words and numbers of every group.
    unsafe {
        if groups.words == 8 {
            for g in (0..groups.count - groups.count % 2).step_by(2) {
                two_groups::<PLAIN, true, R>(groups, left, stored, scales, g, &mut sums);
            }
            if !groups.count.is_multiple_of(2) {
                two_groups::<PLAIN, false, R>(groups, left, stored, scales, groups.count - 1, &mut sums);
            }
            return sums;
        }
        let left = left.as_ptr();
        for g in 0..groups.count {
            let start = left.add(row.starts() + g).cast::<i32>().read_unaligned();
            let mut products = [_mm512_maskz_set1_epi32(1, start); R];
            for block in (g * groups.words / 8..(g + 1) * groups.words / 8).step_by(2) {
                let x = _mm512_loadu_si512(left.add(8 * block).cast());
                for (products, stored) in products.iter_mut().zip(&stored) {
                    *products = _mm512_dpbusd_epi32(*products, stored.pair::<PLAIN, true>(block), x);
                }
            }
            for (r, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
                let scale = _mm512_set1_ps(*scales.as_ptr().add(r * groups.count + g));
                *sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, *sums);
            }
        }
    }
    sums
}

/// Adds one group of 32 or two, each in half of the lanes.
///
/// # Safety
/// As for [`sums`]; there is a group `g` and, if BOTH, one after it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
unsafe fn two_groups<const PLAIN: bool, const BOTH: bool, const R: usize>(
    groups: Groups,
    left: &[f32],
    stored: [Stored<'_>; R],
    scales: &[f32],
    g: usize,
    sums: &mut [__m512; R],
) {
    // The first lane of each group.
    const FIRSTS: __mmask16 = 0x0101;
    let (starts, left) = (LeftRow::of(groups).starts(), left.as_ptr());
    let halves = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    // SAFETY: numbers of one or two groups and their words are loaded.
    unsafe {
        let numbers = |from: *const f32| match BOTH {
            true => _mm_castsi128_ps(_mm_loadl_epi64(from.cast())),
            false => _mm_load_ss(from),
        };
        let start = _mm512_castps_si512(_mm512_castps128_ps512(numbers(left.add(starts + g))));
        let start = _mm512_maskz_permutexvar_epi32(FIRSTS, halves, start);
        let x = _mm512_maskz_loadu_epi32(if BOTH { !0 } else { 0xff }, left.add(g * 8).cast());
        for (r, (sums, stored)) in sums.iter_mut().zip(stored).enumerate() {
            let products = _mm512_dpbusd_epi32(start, stored.pair::<PLAIN, BOTH>(g), x);
            let scale = _mm512_castps128_ps512(numbers(scales.as_ptr().add(r * groups.count + g)));
            *sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), _mm512_permutexvar_ps(halves, scale), *sums);
        }
    }
}

/// Lanes summed as [`fold_halves`](crate::backend::cpu::simd::reduce::fold_halves) sums them.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn fold(lanes: __m512) -> f32 {
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(lanes)));
    let eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), high);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
