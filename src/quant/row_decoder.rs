//! A weight's rows out of its planes, as float32: the one decoder of every format.
//!
//! Its loops are plain and inlined, so that a caller can compile them for the instructions it has. Bytes of planes are
//! little-endian and need no alignment: they may lie in an arena or in a file.

use super::{
    BLOCK, GROUPS, GroupScale, GroupedShape, Levels, Simulation, WeightCodec, WeightFormat, WeightPlane, fp4, nibble,
};
use std::ops::Range;

/// The planes of a weight, to be read row by row.
#[derive(Clone, Copy, Debug)]
pub struct RowDecoder<'a> {
    pub(super) format: WeightFormat,
    pub(super) shape: GroupedShape,
    pub(super) data: &'a [u8],
    pub(super) scales: &'a [u8],
    pub(super) offsets: &'a [u8],
    residue: &'a [u8],
}

/// Where a piece of a row lies in the planes.
struct Piece {
    /// Elements where rows are not padded, and where they are.
    plain: Range<usize>,
    padded: Range<usize>,
    /// Bytes of the nibbles of whole groups.
    nibbles: Range<usize>,
    /// First group.
    group: usize,
}

impl<'a> RowDecoder<'a> {
    /// A decoder of the planes that `plane` gives.
    ///
    /// # Panics
    /// If a plane's length does not fit the shape.
    pub fn new(format: WeightFormat, shape: GroupedShape, mut plane: impl FnMut(WeightPlane) -> &'a [u8]) -> Self {
        let [data, scales, offsets, residue] = WeightPlane::ALL.map(|kind| match format.plane(kind) {
            None => &[],
            Some(layout) => {
                let bytes = plane(kind);
                assert_eq!(bytes.len(), layout.bytes(shape), "bytes of {} of a weight {shape:?}", kind.name());
                bytes
            }
        });
        Self { format, shape, data, scales, offsets, residue }
    }

    /// Rows, columns and group of the weight.
    pub fn shape(&self) -> GroupedShape {
        self.shape
    }

    /// Whether the weight is stored as codes under scales.
    pub fn is_quantized(&self) -> bool {
        self.format.is_quantized()
    }

    /// Elements `from..from + out.len()` of a row, as products see them.
    ///
    /// # Panics
    /// If the piece does not begin with a group, or is neither whole groups nor the row's end.
    #[inline(always)]
    pub fn read(&self, row: usize, from: usize, out: &mut [f32]) {
        let piece = self.piece(row, from, out.len());
        match self.format.codec() {
            WeightCodec::F32 => {
                read_f32(&self.data[4 * piece.plain.start..4 * piece.plain.end], out);
                match self.format.simulates() {
                    None => {}
                    Some(rows) if rows.is_per_row() => {
                        out.chunks_mut(self.shape.group).for_each(|group| rows.round(group));
                    }
                    Some(flat) => self.round_flat(flat, piece.plain, out),
                }
            }
            WeightCodec::F16 => read_16(&self.data[2 * piece.plain.start..2 * piece.plain.end], out, f16_value),
            WeightCodec::Bf16 => read_16(&self.data[2 * piece.plain.start..2 * piece.plain.end], out, bf16_value),
            WeightCodec::Int8 => self.read_int8(&piece, out),
            WeightCodec::Int4 => self.read_int4(&piece, out),
            WeightCodec::Int4Offset => self.read_int4_offset(&piece, out),
            WeightCodec::Fp4 => self.read_fp4(&piece, out),
        }
    }

    /// A row as it is trained: codes with their residue.
    ///
    /// # Panics
    /// If the format has no residue, or `out` is not as long as a row.
    pub fn read_trained(&self, row: usize, out: &mut [f32]) {
        assert!(self.format.has_residue() && out.len() == self.shape.cols, "a row of {} trained values", out.len());
        let grid = self.format.grid().expect("codes with a residue have a grid");
        let piece = self.piece(row, 0, out.len());
        let (codes, residue) = (&self.data[piece.nibbles.clone()], &self.residue[piece.nibbles]);
        for (i, out) in out.iter_mut().enumerate() {
            let group = piece.group + i / self.shape.group;
            let code = nibble(codes, i);
            let high = if grid.levels == Levels::E2m1 { fp4::rank(code) } else { code };
            let scale = GroupScale::read(self.format.scale(), self.scales, self.offsets, group);
            *out = grid.value(f32::from(high << 4 | nibble(residue, i)), scale);
        }
    }

    #[inline(always)]
    fn piece(&self, row: usize, from: usize, len: usize) -> Piece {
        let GroupedShape { rows, cols, group } = self.shape;
        let to = from + len;
        assert!(
            row < rows && from.is_multiple_of(group) && (to == cols || to < cols && to.is_multiple_of(group)),
            "columns {from}..{to} of row {row} of {rows} x {cols}"
        );
        let padded = row * self.shape.padded_cols() + from;
        let whole = padded + len.next_multiple_of(group);
        Piece {
            plain: row * cols + from..row * cols + to,
            padded: padded..padded + len,
            nibbles: padded / 2..whole / 2,
            group: padded / group,
        }
    }

    /// Rounds the elements `range` of the matrix in groups that run on from a row to the next: those at the ends are
    /// read whole.
    #[inline(always)]
    fn round_flat(&self, simulation: Simulation, range: Range<usize>, out: &mut [f32]) {
        let (group, len) = (self.shape.group, self.shape.len());
        let mut at = range.start;
        while at < range.end {
            let first = at / group * group;
            let last = (first + group).min(len);
            let to = last.min(range.end);
            let mut values = [0.0f32; GROUPS[GROUPS.len() - 1]];
            let values = &mut values[..last - first];
            read_f32(&self.data[4 * first..4 * last], values);
            simulation.round(values);
            out[at - range.start..to - range.start].copy_from_slice(&values[at - first..to - first]);
            at = to;
        }
    }

    #[inline(always)]
    fn read_int8(&self, piece: &Piece, out: &mut [f32]) {
        let (group, data) = (self.shape.group, &self.data[piece.padded.clone()]);
        for (g, (out, data)) in out.chunks_mut(group).zip(data.chunks(group)).enumerate() {
            let scale = scale_at(self.scales, piece.group + g);
            for (out, &code) in out.iter_mut().zip(data) {
                *out = scale * f32::from(code as i8);
            }
        }
    }

    /// `s (q - 8)`, rounded once.
    #[inline(always)]
    fn read_int4(&self, piece: &Piece, out: &mut [f32]) {
        let (group, codes) = (self.shape.group, &self.data[piece.nibbles.clone()]);
        for (g, (out, codes)) in out.chunks_mut(group).zip(codes.chunks_exact(group / 2)).enumerate() {
            let scale = scale_at(self.scales, piece.group + g);
            each_value(codes, out, |code| scale * (f32::from(code) - 8.0));
        }
    }

    /// A power of two times a float of four bits, which no bit is lost of.
    #[inline(always)]
    fn read_fp4(&self, piece: &Piece, out: &mut [f32]) {
        let (group, codes) = (self.shape.group, &self.data[piece.nibbles.clone()]);
        for (g, (out, codes)) in out.chunks_mut(group).zip(codes.chunks_exact(group / 2)).enumerate() {
            let scale = fp4::power_of_two(self.scales[piece.group + g]);
            each_value(codes, out, |code| scale * fp4::code_value(code));
        }
    }

    /// `s q + o`, rounded twice on every instruction set.
    #[inline(always)]
    fn read_int4_offset(&self, piece: &Piece, out: &mut [f32]) {
        let (group, codes) = (self.shape.group, &self.data[piece.nibbles.clone()]);
        for (g, (out, codes)) in out.chunks_mut(group).zip(codes.chunks_exact(group / 2)).enumerate() {
            let (scale, offset) = (scale_at(self.scales, piece.group + g), scale_at(self.offsets, piece.group + g));
            each_value(codes, out, |code| scale * f32::from(code) + offset);
        }
    }
}

/// The value of a half-precision number, without a call or a branch: in dot products there is one for every few
/// instructions.
#[inline(always)]
pub fn f16_value(bits: u16) -> f32 {
    // Exponent and mantissa in their places; the biases differ by 112.
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let finite = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let infinite = f32::from_bits(magnitude | 0x7f80_0000);
    let value = if magnitude < 0x0f80_0000 { finite } else { infinite };
    f32::from_bits(value.to_bits() | u32::from(bits & 0x8000) << 16)
}

/// A bfloat16 is the upper half of a float32.
#[inline(always)]
fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Scale or offset of a group.
#[inline(always)]
fn scale_at(plane: &[u8], group: usize) -> f32 {
    f16_value(u16::from_le_bytes([plane[2 * group], plane[2 * group + 1]]))
}

#[inline(always)]
fn read_f32(data: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(data.as_chunks::<4>().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

#[inline(always)]
fn read_16(data: &[u8], out: &mut [f32], value: impl Fn(u16) -> f32) {
    for (out, bytes) in out.iter_mut().zip(data.as_chunks::<2>().0) {
        *out = value(u16::from_le_bytes(*bytes));
    }
}

/// Sets `out` to what the nibbles of a group, or of its beginning, stand for. By way of bytes: the compiler does not see that it
/// can widen both halves of a block at once, and takes one after the other, ten times as long.
#[inline(always)]
fn each_value(codes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let mut bytes = [0; GROUPS[GROUPS.len() - 1]];
    let bytes = &mut bytes[..out.len()];
    each_nibble(codes, bytes, |nibble| nibble);
    for (out, &byte) in out.iter_mut().zip(bytes.iter()) {
        *out = value(byte);
    }
}

/// The nibbles of a group, or of its beginning.
#[inline(always)]
pub(super) fn each_nibble(codes: &[u8], out: &mut [u8], value: impl Fn(u8) -> u8) {
    let (blocks, tail) = out.as_chunks_mut::<BLOCK>();
    let whole = blocks.len() * BLOCK;
    for (block, bytes) in blocks.iter_mut().zip(codes.as_chunks::<{ BLOCK / 2 }>().0) {
        let (low, high) = block.split_at_mut(BLOCK / 2);
        for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
            *low = value(byte & 15);
            *high = value(byte >> 4);
        }
    }
    for (i, out) in tail.iter_mut().enumerate() {
        *out = value(nibble(codes, whole + i));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_read() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (f16_value(bits), half::f16::from_bits(bits).to_f32());
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{bits:#x}: {found}, not {expected}");
            assert_eq!(found.is_sign_negative(), expected.is_sign_negative(), "{bits:#x}");
        }
    }
}
