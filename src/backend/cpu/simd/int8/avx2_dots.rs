//! Dot products with AVX2 of rows of inputs and rows of a weight whose integers are nibbles: pairs of their products with bytes are
//! summed in sixteen bits, which hold them (bytes of weights would not be held).

use super::portable::each_dot;
use super::{Dots, Groups, QUAD};
use std::arch::x86_64::*;

/// Blocks of 32 that a register holds one half of.
const PAIR: usize = QUAD / 2;

/// See [`super::dots`].
///
/// # Safety
/// The processor has AVX2 and FMA; `left` holds a row of `groups`, whose words are multiples of eight, for each row of `out`, `w`
/// has `groups`, rows `first..first + out.cols()` and two integers to a byte, and `numbers` is as long as [`super::dots`] asks for.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn dots(dots: Dots<'_>) {
    let (groups, plain) = (dots.groups, dots.w.integers().is_plain());
    each_dot::<true>(dots, |left, (bytes, nibbles), scales| {
        // SAFETY: as promised by the caller; there are the products of all groups and four numbers more.
        unsafe { dot(groups, left, bytes, nibbles.filter(|_| !plain), scales) }
    });
}

/// The sums of products of integers.
///
/// # Safety
/// As for [`dots`], for one row of each; `scales` has one for each group, and four numbers more.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn dot(groups: Groups, left: &[f32], bytes: &[u8], meanings: Option<&[u8; 16]>, scales: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 2];
    let blocks = groups.blocks();
    for quad in 0..blocks.div_ceil(QUAD) {
        // SAFETY: a row of inputs has whole quads; of four scales from a group on those that do not exist are left out.
        unsafe {
            let scale = _mm_loadu_ps(scales.as_ptr().add(quad * QUAD * 8 / groups.words));
            for (half, sum) in sums.iter_mut().enumerate() {
                let block = QUAD * quad + PAIR * half;
                let x = left.as_ptr().add(8 * QUAD * quad + 8 * half);
                let there = blocks.saturating_sub(block).min(PAIR);
                let weights = integers(bytes, block, there, meanings);
                let products = sum_of_fours(weights, [x, x.add(4 * QUAD)].map(|x| _mm256_loadu_si256(x.cast())));
                let scale = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(scale), groups_of_lanes(groups, half));
                let scale = _mm256_and_ps(scale, _mm256_castsi256_ps(lanes(4 * there)));
                *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scale, *sum);
            }
        }
    }
    let eight = _mm256_add_ps(sums[0], sums[1]);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// The integers of two blocks, or of one, or none: the first halves of them, and the second.
///
/// # Safety
/// The processor has AVX2, and there are so many blocks from `block` on.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn integers(bytes: &[u8], block: usize, there: usize, meanings: Option<&[u8; 16]>) -> [__m256i; 2] {
    let at = bytes.as_ptr().wrapping_add(16 * block);
    // SAFETY: the mask leaves out blocks that are missing.
    let bytes = unsafe {
        match there == PAIR {
            true => _mm256_loadu_si256(at.cast()),
            false => _mm256_maskload_epi32(at.cast(), lanes(4 * there)),
        }
    };
    let fifteen = _mm256_set1_epi8(15);
    let halves = [_mm256_and_si256(bytes, fifteen), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), fifteen)];
    match meanings {
        None => halves,
        Some(meanings) => {
            // SAFETY: sixteen bytes are read.
            let meanings = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(meanings.as_ptr().cast()) });
            halves.map(|nibbles| _mm256_shuffle_epi8(meanings, nibbles))
        }
    }
}

/// For each word the sum of its four products, those of both halves: at most eight of 24 times 127.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_of_fours(weights: [__m256i; 2], x: [__m256i; 2]) -> __m256i {
    let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(weights[0], x[0]), _mm256_maddubs_epi16(weights[1], x[1]));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// Which group the block of each lane is in, counted from that of the quad's first.
#[inline]
#[target_feature(enable = "avx2")]
fn groups_of_lanes(groups: Groups, half: usize) -> __m256i {
    let blocks = _mm256_add_epi32(_mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0), _mm256_set1_epi32((PAIR * half) as i32));
    match groups.words {
        8 => blocks,
        16 => _mm256_srli_epi32::<1>(blocks),
        _ => _mm256_setzero_si256(),
    }
}

/// All bits of the first `count` lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(count: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0))
}
