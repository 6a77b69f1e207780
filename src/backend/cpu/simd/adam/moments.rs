//! Moments of a group.

use super::registers::{BYTES, Strip, absmax, largest, load_signed, load_values, plus, store_integers, store_nibbles};
use super::{PackedFirstMoments, PackedRows, PackedSecondMoments};
use crate::backend::cpu::simd::uniform::avx512::STRIP;
use crate::quant::{MomentCodec, bf16_ceil, bf16_to_f32};
use std::arch::x86_64::*;

/// First moments.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn load_m<const N: usize>(rows: &PackedRows, group: usize) -> [Strip; N] {
    let scale = rows.m_scales[group];
    match &rows.m {
        PackedFirstMoments::Nibbles(codes) => load_values(signed_values(scale), &codes[rows.bytes(group)]),
        PackedFirstMoments::Bytes(codes) => load_signed(bf16_to_f32(scale), &codes[rows.elements(group)]),
    }
}

/// Second moments.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn load_v<const N: usize>(rows: &PackedRows, group: usize) -> [Strip; N] {
    match &rows.v {
        PackedSecondMoments::Own(codes, scales) => load_values(squares(scales[group]), &codes[rows.bytes(group)]),
        PackedSecondMoments::Shared(numbers, factors) => {
            let (in_row, group_size) = (rows.cols / rows.group, rows.group);
            let col = group % in_row * group_size;
            load_shared(numbers[group / in_row], factors.get(col..col + group_size))
        }
    }
}

/// Stores first moments.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn store_m<const N: usize>(rows: &mut PackedRows, group: usize, m: &[Strip; N], u: &[Strip; N]) {
    let (bytes, elements) = (rows.bytes(group), rows.elements(group));
    let codec = match rows.m {
        PackedFirstMoments::Nibbles(_) => MomentCodec::M4,
        PackedFirstMoments::Bytes(_) => MomentCodec::M8,
    };
    let (scale, inverse) = scale_of(absmax(m), codec);
    rows.m_scales[group] = scale;
    let integers = m.iter().zip(u).map(|(m, u)| signed_integers(m, inverse, u, codec));
    match &mut rows.m {
        PackedFirstMoments::Nibbles(codes) => {
            let eight = _mm512_set1_epi32(8);
            for (integers, bytes) in integers.zip(codes[bytes].chunks_exact_mut(BYTES)) {
                store_nibbles(integers.map(|x| _mm512_add_epi32(x, eight)), bytes);
            }
        }
        PackedFirstMoments::Bytes(codes) => {
            for (integers, bytes) in integers.zip(codes[elements].as_chunks_mut::<STRIP>().0) {
                store_integers(integers, bytes);
            }
        }
    }
}

/// Stores second moments, given as their roots, unless they are shared.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn store_v<const N: usize>(rows: &mut PackedRows, group: usize, roots: &[Strip; N], u: &[Strip; N]) {
    let bytes = rows.bytes(group);
    let PackedSecondMoments::Own(codes, scales) = &mut rows.v else { return };
    let (scale, inverse) = scale_of(largest(roots), MomentCodec::V4);
    scales[group] = scale;
    for ((roots, u), bytes) in roots.iter().zip(u).zip(codes[bytes].chunks_exact_mut(BYTES)) {
        store_roots(roots, inverse, u, bytes);
    }
}

/// The sixteen values of the nibbles of first moments.
#[inline]
#[target_feature(enable = "avx512f")]
fn signed_values(scale: u16) -> __m512 {
    _mm512_mul_ps(_mm512_set1_ps(bf16_to_f32(scale)), _mm512_sub_ps(to_fifteen(), _mm512_set1_ps(8.0)))
}

/// The sixteen values of the nibbles of second moments, which are stored as roots.
#[inline]
#[target_feature(enable = "avx512f")]
fn squares(scale: u16) -> __m512 {
    let roots = _mm512_mul_ps(_mm512_set1_ps(bf16_to_f32(scale)), to_fifteen());
    _mm512_mul_ps(roots, roots)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn to_fifteen() -> __m512 {
    _mm512_set_ps(15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0)
}

/// The second moments that a row's elements share.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_shared<const N: usize>(number: f32, factors: Option<&[f32]>) -> [Strip; N] {
    let number = _mm512_set1_ps(number);
    let mut out = [[number; 4]; N];
    for (out, factors) in out.as_flattened_mut().iter_mut().zip(factors.unwrap_or_default().as_chunks::<16>().0) {
        // SAFETY: sixteen floats, and the load asks for no alignment.
        *out = _mm512_mul_ps(number, unsafe { _mm512_loadu_ps(factors.as_ptr()) });
    }
    out
}

/// The scale of moments as [`MomentCodec::encode_roots`] chooses it, and its inverse.
#[inline]
fn scale_of(most: f32, codec: MomentCodec) -> (u16, f32) {
    let bits = bf16_ceil(most / f32::from(codec.max));
    let scale = bf16_to_f32(bits);
    if scale >= f32::MIN_POSITIVE { (bits, 1.0 / scale) } else { (0, 0.0) }
}

/// A strip of first moments, rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn signed_integers(values: &Strip, inverse: f32, u: &Strip, codec: MomentCodec) -> [__m512i; 4] {
    const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    let (inverse, max) = (_mm512_set1_ps(inverse), _mm512_set1_ps(f32::from(codec.max)));
    let min = _mm512_set1_ps(-f32::from(codec.max));
    let mut integers = [_mm512_setzero_si512(); 4];
    for (integers, (value, u)) in integers.iter_mut().zip(values.iter().zip(u)) {
        let x = plus(*u, _mm512_mul_ps(*value, inverse));
        *integers = _mm512_cvt_roundps_epi32::<DOWN>(_mm512_min_ps(_mm512_max_ps(x, min), max));
    }
    integers
}

/// A strip of roots of second moments, of which only zeros become zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store_roots(roots: &Strip, inverse: f32, u: &Strip, bytes: &mut [u8]) {
    let (inverse, max) = (_mm512_set1_ps(inverse), _mm512_set1_ps(f32::from(MomentCodec::V4.max)));
    let mut integers = [_mm512_setzero_si512(); 4];
    for (integers, (root, u)) in integers.iter_mut().zip(roots.iter().zip(u)) {
        let scaled = _mm512_mul_ps(*root, inverse);
        let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(scaled, _mm512_setzero_ps());
        let least = _mm512_maskz_mov_ps(positive, _mm512_set1_ps(1.0));
        *integers = _mm512_cvttps_epi32(_mm512_min_ps(_mm512_max_ps(plus(*u, scaled), least), max));
    }
    store_nibbles(integers, bytes);
}
