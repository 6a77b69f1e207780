//! Dot products with AVX-512 VNNI of rows of inputs and rows of a weight as they are stored: 128 integers are read at once,
//! and are not moved but for their upper halves, because the inputs lie in their order.

use super::{AT_ONCE, Dots, Groups, LeftRow, QUAD};
use crate::backend::cpu::simd::gemm::tail_mask;
use crate::backend::cpu::simd::reduce::fold_four;
use crate::quant::RowDecoder;
use std::arch::x86_64::*;

/// Lanes of a register.
const LANES: usize = 16;

/// How far ahead of them integers are asked for, in bytes: the processor's own prefetching ends with a page. A line or two with
/// every read; all of a row's at once would wait for each other.
const AHEAD: usize = 4096;
/// The same of scales and offsets, of which there are an eighth or fewer.
const SCALES_AHEAD: usize = 512;

/// How a row's integers are stored.
#[derive(Clone, Copy)]
struct Stored<'a> {
    bytes: &'a [u8],
    nibbles: Option<&'a [u8; 16]>,
}

impl Stored<'_> {
    /// The integers of up to four blocks from `block` on, which are `count`: the first halves of them, and the second. PLAIN:
    /// they are nibbles.
    ///
    /// # Safety
    /// The processor has AVX-512 F and BW, and there are such blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn quad<const PLAIN: bool>(&self, block: usize, count: usize) -> [__m512i; 2] {
        // SAFETY: as promised by the caller; masks leave out blocks that are missing.
        unsafe {
            if !PLAIN && self.nibbles.is_none() {
                let sign = _mm512_set1_epi8(i8::MIN);
                let pair = |first: usize| {
                    let there = words_mask(4 * count.saturating_sub(first).min(2));
                    self.prefetch(32 * (block + first));
                    _mm512_xor_si512(_mm512_maskz_loadu_epi64(there, self.at(32 * (block + first))), sign)
                };
                let (low, high) = (pair(0), pair(2));
                return [
                    _mm512_shuffle_i64x2::<0b10_00_10_00>(low, high),
                    _mm512_shuffle_i64x2::<0b11_01_11_01>(low, high),
                ];
            }
            self.prefetch(16 * block);
            let bytes = _mm512_maskz_loadu_epi64(words_mask(2 * count), self.at(16 * block));
            let fifteen = _mm512_set1_epi8(15);
            let halves = [_mm512_and_si512(bytes, fifteen), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), fifteen)];
            match self.nibbles.filter(|_| !PLAIN) {
                None => halves,
                Some(meanings) => {
                    let meanings = _mm512_broadcast_i32x4(_mm_loadu_si128(meanings.as_ptr().cast()));
                    halves.map(|nibbles| _mm512_shuffle_epi8(meanings, nibbles))
                }
            }
        }
    }

    /// Asks for the line [`AHEAD`] of a byte: a hint, nothing is read, wherever it points.
    #[inline]
    #[target_feature(enable = "sse")]
    fn prefetch(&self, byte: usize) {
        _mm_prefetch::<_MM_HINT_T0>(self.at(byte + AHEAD).cast());
    }

    fn at(&self, byte: usize) -> *const i64 {
        self.bytes.as_ptr().wrapping_add(byte).cast()
    }
}

/// The first `count` of eight.
#[inline(always)]
fn words_mask(count: usize) -> __mmask8 {
    if count >= 8 { !0 } else { (1 << count) - 1 }
}

/// See [`super::dots`].
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and VNNI; `left` holds a row of `groups`, whose words are multiples of eight, for
/// each row of `out`, `w` has `groups` and rows `first..first + out.cols()`, and `numbers` is as long as [`super::dots`] asks for.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn dots(dots: Dots<'_>) {
    // SAFETY: as promised by the caller.
    unsafe {
        match dots.w.integers().is_plain() {
            true => all_dots::<true>(dots),
            false => all_dots::<false>(dots),
        }
    }
}

/// # Safety
/// As for [`dots`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn all_dots<const PLAIN: bool>(dots: Dots<'_>) {
    let Dots { groups, left, w, first, numbers, mut out, goes_on } = dots;
    let row = LeftRow::of(groups).len();
    for j in (0..out.cols()).step_by(AT_ONCE) {
        let (at_once, w) = (AT_ONCE.min(out.cols() - j), (w, first + j));
        for t in 0..out.rows() {
            let left = &left[t * row..];
            // SAFETY: as promised by the caller; there are as many rows as are asked for.
            let sums = unsafe {
                match at_once {
                    1 => dot::<PLAIN, 1>(groups, left, w, numbers),
                    2 => dot::<PLAIN, 2>(groups, left, w, numbers),
                    3 => dot::<PLAIN, 3>(groups, left, w, numbers),
                    _ => dot::<PLAIN, 4>(groups, left, w, numbers),
                }
            };
            for (y, sum) in out.row(t)[j..].iter_mut().zip(&sums[..at_once]) {
                *y = if goes_on { *y + sum } else { *sum };
            }
        }
    }
}

/// Dot products of a row of inputs with R rows of a weight, at most [`AT_ONCE`].
///
/// # Safety
/// As for [`dots`], for one row of `left` and rows `first..first + R`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn dot<const PLAIN: bool, const R: usize>(
    groups: Groups,
    left: &[f32],
    (w, first): (&RowDecoder<'_>, usize),
    numbers: &mut [f32],
) -> [f32; AT_ONCE] {
    let integers = w.integers();
    let nothing = Stored { bytes: &[], nibbles: integers.nibbles.as_ref() };
    let (mut stored, mut means) = ([nothing; R], [_mm512_setzero_ps(); AT_ONCE]);
    for (r, scales) in numbers.chunks_exact_mut(groups.row_scales()).take(R).enumerate() {
        stored[r].bytes = w.integer_bytes(first + r);
        // SAFETY: numbers of the row's groups, as promised by the caller.
        means[r] = unsafe {
            match w.half_scales(first + r) {
                Some((own, offsets)) => {
                    // Hints: nothing is read.
                    for plane in [own, offsets] {
                        _mm_prefetch::<_MM_HINT_T0>(plane.as_ptr().wrapping_add(SCALES_AHEAD).cast());
                    }
                    multiply_scales(groups, left, integers.zero, scales, |_, g, there| {
                        let offset = if groups.offsets { read_halves(offsets, g, there) } else { _mm512_setzero_ps() };
                        (read_halves(own, g, there), offset)
                    })
                }
                None => {
                    w.integer_scales(first + r, &mut scales[..groups.count], &mut []);
                    multiply_scales(groups, left, integers.zero, scales, |own, g, there| {
                        (_mm512_maskz_loadu_ps(there, own.as_ptr().add(g)), _mm512_setzero_ps())
                    })
                }
            }
        };
    }
    // SAFETY: as promised by the caller; there are the scales of R rows.
    let sums = unsafe { sums::<PLAIN, R>(groups, left, stored, numbers) };
    let mut all = [_mm512_setzero_ps(); AT_ONCE];
    all[..R].copy_from_slice(&sums);
    let sums = fold_four(all);
    let sums = if groups.offsets || integers.zero != 0 { _mm_add_ps(sums, fold_four(means)) } else { sums };
    let mut out = [0.0; AT_ONCE];
    // SAFETY: four numbers are stored.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}

/// Sets `scales` to the products of a row's scales with those of the inputs, and what follows them to zero; gives the sums of
/// what a group's mean is multiplied by. `own` gives the scales, which may be in
/// `scales`, and offsets of groups from a number on, as many as a mask says.
///
/// # Safety
/// As for [`dots`], for one row of each.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn multiply_scales(
    groups: Groups,
    left: &[f32],
    zero: u8,
    scales: &mut [f32],
    own: impl Fn(&[f32], usize, __mmask16) -> (__m512, __m512),
) -> __m512 {
    let (row, left, mut means) = (LeftRow::of(groups), left.as_ptr(), _mm512_setzero_ps());
    let zero = _mm512_set1_ps(f32::from(zero));
    for g in (0..groups.count).step_by(LANES) {
        let there = tail_mask(groups.count - g);
        let (scale, offset) = own(scales, g, there);
        // SAFETY: as promised by the caller; masks leave out groups that do not exist, and rows of scales are whole registers.
        unsafe {
            let product = _mm512_mul_ps(scale, _mm512_maskz_loadu_ps(there, left.add(row.scales() + g)));
            _mm512_storeu_ps(scales.as_mut_ptr().add(g), product);
            let mean = _mm512_maskz_loadu_ps(there, left.add(row.means() + g));
            means = _mm512_mask3_fmadd_ps(_mm512_fnmadd_ps(zero, scale, offset), mean, means, there);
        }
    }
    means
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
    let mut sums = [_mm512_setzero_ps(); R];
    let blocks = groups.blocks();
    let groups_of_lanes = groups_of_lanes(groups);
    // SAFETY: as promised by the caller: blocks, words and numbers of every group.
    unsafe {
        for block in (0..blocks - blocks % QUAD).step_by(QUAD) {
            add_quad::<PLAIN, true, R>(groups, left, stored, scales, (block, QUAD), groups_of_lanes, &mut sums);
        }
        if !blocks.is_multiple_of(QUAD) {
            let rest = (blocks - blocks % QUAD, blocks % QUAD);
            add_quad::<PLAIN, false, R>(groups, left, stored, scales, rest, groups_of_lanes, &mut sums);
        }
    }
    sums
}

/// Which group the block of each lane is in, counted from that of the first.
#[inline]
#[target_feature(enable = "avx512f")]
fn groups_of_lanes(groups: Groups) -> __m512i {
    let blocks = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    match groups.words {
        8 => blocks,
        16 => _mm512_srli_epi32::<1>(blocks),
        _ => _mm512_setzero_si512(),
    }
}

/// Adds the products of four blocks, or of fewer that are the last of a row.
///
/// # Safety
/// As for [`sums`]; there are `count` blocks from `block` on, four if WHOLE.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
unsafe fn add_quad<const PLAIN: bool, const WHOLE: bool, const R: usize>(
    groups: Groups,
    left: &[f32],
    stored: [Stored<'_>; R],
    scales: &[f32],
    (block, count): (usize, usize),
    groups_of_lanes: __m512i,
    sums: &mut [__m512; R],
) {
    let first = block * 8 / groups.words;
    // SAFETY: a row of inputs has whole quads; four scales from any group on lie inside of `scales`, which is that much longer.
    unsafe {
        let x = left.as_ptr().add(8 * block);
        let (low, high) = (_mm512_loadu_si512(x.cast()), _mm512_loadu_si512(x.add(LANES).cast()));
        for (r, (sums, stored)) in sums.iter_mut().zip(stored).enumerate() {
            let weights = stored.quad::<PLAIN>(block, if WHOLE { QUAD } else { count });
            let products = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights[0], low);
            let products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(products, weights[1], high));
            let scale = _mm_loadu_ps(scales.as_ptr().add(r * groups.row_scales() + first));
            let scale = _mm512_permutexvar_ps(groups_of_lanes, _mm512_castps128_ps512(scale));
            *sums = match WHOLE {
                true => _mm512_fmadd_ps(products, scale, *sums),
                false => _mm512_mask3_fmadd_ps(products, scale, *sums, tail_mask(4 * count)),
            };
        }
    }
}
