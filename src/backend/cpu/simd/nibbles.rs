//! Pieces of rows of a weight as float32. Codes of four bits that are integers are widened in registers, of AVX-512 or AVX2; all
//! else, and all other processors, go by the decoder's loops, whose bits these are.

#[cfg(target_arch = "x86_64")]
use super::isa::Level;
use super::isa::{Isa, vectorized};
use crate::quant::RowDecoder;
use std::ops::Range;

/// Elements `from..from + out.len()` of a row.
///
/// # Panics
/// If the piece does not begin with a group, or is neither whole groups nor the row's end.
pub(crate) fn read(isa: Isa, w: &RowDecoder<'_>, row: usize, from: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if isa.level() != Level::Portable && w.is_quantized() && w.integers().is_plain() {
        let piece = x86::PackedPiece::new(w, row, from, out.len());
        // SAFETY: an `Isa` of a level exists only after its instructions were detected.
        return unsafe {
            match (isa.level() == Level::Avx512, piece.has_offsets()) {
                (true, false) => x86::read_avx512::<false>(piece, out),
                (true, true) => x86::read_avx512::<true>(piece, out),
                (false, false) => x86::read_avx2::<false>(piece, out),
                (false, true) => x86::read_avx2::<true>(piece, out),
            }
        };
    }
    plain(isa, w, row, from, out);
}

/// Asks for the codes of columns `from..from + len` of some rows ahead of their use: rows are far from each other, so each would
/// wait for memory when it is read. Only a hint, which not all processors are given.
pub(crate) fn prefetch(w: &RowDecoder<'_>, rows: Range<usize>, from: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if w.is_quantized() && w.integers().is_plain() {
        for row in rows {
            let codes = &w.integer_bytes(row)[from / 2..];
            x86::prefetch(&codes[..codes.len().min(len.div_ceil(2))]);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (w, rows, from, len);
}

vectorized! {
    fn plain(w: &RowDecoder<'_>, row: usize, from: usize, out: &mut [f32]) {
        w.read(row, from, out);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::backend::cpu::simd::gemm::tail_mask;
    use crate::quant::{BLOCK, RowDecoder, f16_value};
    use std::arch::x86_64::*;

    /// What a piece is read of, from its first group on.
    #[derive(Clone, Copy)]
    pub struct PackedPiece<'a> {
        /// Blocks of 32 codes: the first sixteen in the lower halves of bytes.
        codes: &'a [u8],
        /// In half precision.
        scales: &'a [u8],
        offsets: Option<&'a [u8]>,
        /// The code that stands for zero.
        zero: f32,
        /// Elements of a group: whole blocks.
        group: usize,
    }

    impl<'a> PackedPiece<'a> {
        pub fn new(w: &RowDecoder<'a>, row: usize, from: usize, len: usize) -> Self {
            let (shape, to) = (w.shape(), from + len);
            let inside = row < shape.rows && (to == shape.cols || to < shape.cols && to.is_multiple_of(shape.group));
            assert!(inside && from.is_multiple_of(shape.group), "columns {from}..{to} of row {row} of {shape:?}");
            let (scales, offsets) = w.half_scales(row).expect("scales of half precision beside integers of four bits");
            let first = from / shape.group * 2;
            Self {
                codes: &w.integer_bytes(row)[from / 2..],
                scales: &scales[first..],
                offsets: w.integers().offsets.then(|| &offsets[first..]),
                zero: f32::from(w.integers().zero),
                group: shape.group,
            }
        }

        pub fn has_offsets(&self) -> bool {
            self.offsets.is_some()
        }

        /// The codes of a group, block by block.
        #[inline(always)]
        fn blocks(&self, group: usize) -> &'a [[u8; BLOCK / 2]] {
            self.codes[group * self.group / 2..].as_chunks().0
        }

        /// The scale of a group, and its offset.
        #[inline(always)]
        fn numbers(&self, group: usize) -> (f32, f32) {
            let number = |plane: &[u8]| f16_value(u16::from_le_bytes([plane[2 * group], plane[2 * group + 1]]));
            (number(self.scales), self.offsets.map_or(0.0, number))
        }
    }

    /// The lines of the first cache that hold these bytes.
    pub fn prefetch(bytes: &[u8]) {
        for line in bytes.chunks(LINE) {
            // SAFETY: every x86-64 has the instruction, which reads nothing and cannot fail.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }

    /// Bytes of a line.
    const LINE: usize = 64;

    /// `scale (code - zero)`, and the offset added if there are any: rounded once, or twice.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn read_avx512<const OFFSETS: bool>(piece: PackedPiece<'_>, out: &mut [f32]) {
        let (zero, fifteen) = (_mm512_set1_ps(piece.zero), _mm_set1_epi8(15));
        for (g, out) in out.chunks_mut(piece.group).enumerate() {
            let (scale, offset) = piece.numbers(g);
            let (scale, offset) = (_mm512_set1_ps(scale), _mm512_set1_ps(offset));
            for (out, codes) in out.chunks_mut(BLOCK).zip(piece.blocks(g)) {
                // SAFETY: sixteen bytes are read.
                let bytes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
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

    /// The same in twice as many registers; the end of a row is copied, since masks are slow here.
    #[target_feature(enable = "avx2,fma")]
    pub fn read_avx2<const OFFSETS: bool>(piece: PackedPiece<'_>, out: &mut [f32]) {
        for (g, out) in out.chunks_mut(piece.group).enumerate() {
            let (numbers, codes) = (piece.numbers(g), piece.blocks(g));
            let (blocks, tail) = out.as_chunks_mut::<BLOCK>();
            for (out, codes) in blocks.iter_mut().zip(codes) {
                block_avx2::<OFFSETS>(codes, piece.zero, numbers, out);
            }
            if let (false, Some(codes)) = (tail.is_empty(), codes.get(blocks.len())) {
                let mut values = [0.0; BLOCK];
                block_avx2::<OFFSETS>(codes, piece.zero, numbers, &mut values);
                tail.copy_from_slice(&values[..tail.len()]);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn block_avx2<const OFFSETS: bool>(
        codes: &[u8; BLOCK / 2],
        zero: f32,
        (scale, offset): (f32, f32),
        out: &mut [f32; BLOCK],
    ) {
        let (zero, fifteen) = (_mm256_set1_ps(zero), _mm_set1_epi8(15));
        let (scale, offset) = (_mm256_set1_ps(scale), _mm256_set1_ps(offset));
        // SAFETY: sixteen bytes are read.
        let bytes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
        let halves = [_mm_and_si128(bytes, fifteen), _mm_and_si128(_mm_srli_epi16::<4>(bytes), fifteen)];
        for (half, out) in halves.into_iter().zip(out.as_chunks_mut::<{ BLOCK / 2 }>().0) {
            for (eight, out) in [half, _mm_srli_si128::<8>(half)].into_iter().zip(out.as_chunks_mut::<8>().0) {
                let code = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
                let product = _mm256_mul_ps(scale, _mm256_sub_ps(code, zero));
                let value = if OFFSETS { _mm256_add_ps(product, offset) } else { product };
                // SAFETY: eight floats are written.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) };
            }
        }
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
