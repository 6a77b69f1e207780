//! Pieces of rows of a weight as float32. Codes of four bits that are integers are widened by AVX-512 in registers; all else, and
//! all other processors, go by the decoder's loops, whose bits these are.

use super::isa::{Isa, vectorized};
use crate::quant::RowDecoder;

/// Elements `from..from + out.len()` of a row.
///
/// # Panics
/// If the piece does not begin with a group, or is neither whole groups nor the row's end.
pub(crate) fn read(isa: Isa, w: &RowDecoder<'_>, row: usize, from: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if isa.level() == super::isa::Level::Avx512 && w.is_quantized() && w.integers().is_plain() {
        let (shape, to) = (w.shape(), from + out.len());
        assert!(
            row < shape.rows && from.is_multiple_of(shape.group) && to <= shape.cols,
            "columns {from}..{to} of row {row} of {shape:?}"
        );
        let (scales, offsets) = w.half_scales(row).expect("scales of half precision beside integers of four bits");
        let first = from / shape.group * 2;
        let piece = avx512::PackedRow {
            codes: &w.integer_bytes(row)[from / 2..],
            scales: &scales[first..],
            offsets: offsets.get(first..).filter(|_| w.integers().offsets),
            zero: w.integers().zero,
            group: shape.group,
        };
        // SAFETY: an `Isa` of this level exists only after AVX-512 was detected.
        return unsafe { avx512::read(piece, out) };
    }
    plain(isa, w, row, from, out);
}

vectorized! {
    fn plain(w: &RowDecoder<'_>, row: usize, from: usize, out: &mut [f32]) {
        w.read(row, from, out);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use crate::backend::cpu::simd::gemm::tail_mask;
    use crate::quant::BLOCK;
    use std::arch::x86_64::*;

    /// What a piece is read of, from its first group on.
    #[derive(Clone, Copy)]
    pub struct PackedRow<'a> {
        /// Blocks of 32 codes: the first sixteen in the lower halves of bytes.
        pub codes: &'a [u8],
        /// In half precision.
        pub scales: &'a [u8],
        pub offsets: Option<&'a [u8]>,
        /// The code that stands for zero.
        pub zero: u8,
        /// Elements of a group: whole blocks.
        pub group: usize,
    }

    /// `scale (code - zero)`, and the offset added if there are any: rounded once, or twice.
    ///
    /// # Panics
    /// If a plane is too short for `out`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn read(row: PackedRow<'_>, out: &mut [f32]) {
        match row.offsets {
            None => groups::<false>(row, out),
            Some(_) => groups::<true>(row, out),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    fn groups<const OFFSETS: bool>(row: PackedRow<'_>, out: &mut [f32]) {
        let zero = _mm512_set1_ps(f32::from(row.zero));
        for (g, out) in out.chunks_mut(row.group).enumerate() {
            let scale = half(row.scales, g);
            let offset = row.offsets.map_or(_mm512_setzero_ps(), |offsets| half(offsets, g));
            let codes = &row.codes[g * row.group / 2..];
            for (out, codes) in out.chunks_mut(BLOCK).zip(codes.as_chunks::<{ BLOCK / 2 }>().0) {
                // SAFETY: sixteen bytes are read.
                let bytes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
                let fifteen = _mm_set1_epi8(15);
                let halves = [_mm_and_si128(bytes, fifteen), _mm_and_si128(_mm_srli_epi16::<4>(bytes), fifteen)];
                for (half, out) in halves.into_iter().zip(out.chunks_mut(BLOCK / 2)) {
                    let code = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(half));
                    let product = _mm512_mul_ps(scale, _mm512_sub_ps(code, zero));
                    let value = if OFFSETS { _mm512_add_ps(product, offset) } else { product };
                    // SAFETY: the mask has as many lanes as there are elements.
                    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), tail_mask(out.len()), value) };
                }
            }
        }
    }

    /// Number `i` of a plane in half precision, in every lane.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn half(plane: &[u8], i: usize) -> __m512 {
        _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes([plane[2 * i], plane[2 * i + 1]])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{GROUPS, GroupedShape, WeightCodec, WeightFormat, WeightPlane};

    /// Bytes without a pattern.
    fn bytes(count: usize, seed: u32) -> Vec<u8> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn every_piece_is_what_the_decoder_reads() {
        for codec in [WeightCodec::Int4, WeightCodec::Int4Offset, WeightCodec::Fp4, WeightCodec::Int8] {
            for (cols, group) in [1, 15, 16, 17, 31, 33, 300, 513].into_iter().flat_map(|c| GROUPS.map(|g| (c, g))) {
                let (shape, format) = (GroupedShape::new(3, cols, group), WeightFormat::of(codec));
                let planes = WeightPlane::ALL
                    .map(|plane| bytes(format.plane(plane).map_or(0, |layout| layout.bytes(shape)), cols as u32));
                let w = RowDecoder::new(format, shape, |plane| &planes[plane as usize]);
                for row in 0..3 {
                    for (from, to) in [(0, cols), (0, cols / 256 * 256), (cols / 256 * 256, cols)] {
                        let mut expected = vec![0.0; to - from];
                        w.read(row, from, &mut expected);
                        for isa in Isa::available() {
                            let mut found = vec![f32::NAN; to - from];
                            read(isa, &w, row, from, &mut found);
                            let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                            let what = format!("{codec:?}, {from}..{to} of {cols} in groups of {group}");
                            assert!(found.iter().zip(&expected).all(same), "{what}: {}", isa.name());
                        }
                    }
                }
            }
        }
    }
}
