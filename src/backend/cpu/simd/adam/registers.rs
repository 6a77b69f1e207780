//! What a group is made of in registers: strips, their nibbles and bytes, and what is asked of all their elements.

use crate::backend::cpu::simd::uniform::avx512::{STRIP, UNIT};
use std::arch::x86_64::*;

/// Elements 0 to 15, 16 to 31, 32 to 47 and 48 to 63 of a strip.
pub(super) type Strip = [__m512; 4];

/// Bytes of a strip's nibbles.
pub(super) const BYTES: usize = STRIP / 2;

/// The values of nibbles.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_values<const N: usize>(values: __m512, bytes: &[u8]) -> [Strip; N] {
    let mut out = [[_mm512_setzero_ps(); 4]; N];
    // A block of 32 is 16 bytes: its first half in their low nibbles, its second in the high ones.
    for (pair, bytes) in out.as_flattened_mut().as_chunks_mut::<2>().0.iter_mut().zip(bytes.as_chunks::<16>().0) {
        // SAFETY: sixteen bytes, and the load asks for no alignment.
        let low = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
        // The lookup reads four bits.
        let high = _mm512_srli_epi32::<4>(low);
        *pair = [_mm512_permutexvar_ps(low, values), _mm512_permutexvar_ps(high, values)];
    }
    out
}

/// The values of signed bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_signed<const N: usize>(scale: f32, bytes: &[u8]) -> [Strip; N] {
    let scale = _mm512_set1_ps(scale);
    let mut out = [[_mm512_setzero_ps(); 4]; N];
    for (out, bytes) in out.as_flattened_mut().iter_mut().zip(bytes.as_chunks::<16>().0) {
        // SAFETY: sixteen bytes, and the load asks for no alignment.
        let integers = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
        *out = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(integers));
    }
    out
}

/// A strip of integers from -128 to 127 as bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_integers(integers: [__m512i; 4], bytes: &mut [u8; STRIP]) {
    for (integers, bytes) in integers.into_iter().zip(bytes.as_chunks_mut::<16>().0) {
        // SAFETY: sixteen bytes, and the store asks for no alignment.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(integers)) };
    }
}

/// The stored integers of a strip.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn load_integers(codes: &[u8], residue: &[u8]) -> Strip {
    let (codes, residue) = (load_bytes(codes), load_bytes(residue));
    let even = pick_low(residue, _mm256_slli_epi16::<4>(codes));
    let odd = pick_low(_mm256_srli_epi16::<4>(residue), codes);
    let numbers = |bytes| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
    [
        numbers(_mm256_castsi256_si128(even)),
        numbers(_mm256_castsi256_si128(odd)),
        numbers(_mm256_extracti128_si256::<1>(even)),
        numbers(_mm256_extracti128_si256::<1>(odd)),
    ]
}

/// The low nibbles of `low` and the high ones of `high`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn pick_low(low: __m256i, high: __m256i) -> __m256i {
    _mm256_ternarylogic_epi32::<0xca>(_mm256_set1_epi8(15), low, high)
}

/// Integers from 0 to 255 as bytes: those of elements 0 to 15 and 32 to 47, and the others.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn bytes_of([a, b, c, d]: [__m512i; 4]) -> [__m256i; 2] {
    let packed = _mm512_packus_epi16(_mm512_packs_epi32(a, c), _mm512_packs_epi32(b, d));
    let order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    let ordered = _mm512_permutexvar_epi32(order, packed);
    [_mm512_castsi512_si256(ordered), _mm512_extracti64x4_epi64::<1>(ordered)]
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_bytes(bytes: &[u8]) -> __m256i {
    let bytes: &[u8; BYTES] = bytes.try_into().expect("the nibbles of a strip");
    // SAFETY: 32 bytes, and the load asks for no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_bytes(from: __m256i, bytes: &mut [u8]) {
    let bytes: &mut [u8; BYTES] = bytes.try_into().expect("the nibbles of a strip");
    // SAFETY: 32 bytes, and the store asks for no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), from) }
}

/// Nibbles of a strip.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn store_nibbles(nibbles: [__m512i; 4], bytes: &mut [u8]) {
    let [even, odd] = bytes_of(nibbles);
    store_bytes(pick_low(even, _mm256_slli_epi16::<4>(odd)), bytes);
}

/// A random number in units of [`UNIT`], plus what is rounded by it.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn plus(u: __m512, x: __m512) -> __m512 {
    _mm512_fmadd_ps(u, _mm512_set1_ps(UNIT), x)
}

/// [`crate::quant::absmax`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn absmax<const N: usize>(values: &[Strip; N]) -> f32 {
    let mut most = _mm512_setzero_ps();
    for &value in values.as_flattened() {
        // In this order it passes over what is not a number.
        most = _mm512_max_ps(_mm512_abs_ps(value), most);
    }
    _mm512_reduce_max_ps(most)
}

/// The same of numbers that are not negative.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn largest<const N: usize>(values: &[Strip; N]) -> f32 {
    let mut most = _mm512_setzero_ps();
    for &value in values.as_flattened() {
        most = _mm512_max_ps(value, most);
    }
    _mm512_reduce_max_ps(most)
}
