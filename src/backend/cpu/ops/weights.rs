//! Reading a weight: a piece of one row, as float32, whatever it is stored as. No product ever sees more of a
//! packed weight than the pieces it asks for.

use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::{Scheme, Weight, WeightKind};
use crate::memory::Claims;
use crate::quant::{BLOCK, GroupedShape, nibble};
use half::f16;

/// Pieces start at multiples of this many columns: whole groups of every size.
pub(crate) const PIECE: usize = 256;

/// The planes of a weight.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    shape: GroupedShape,
    planes: Planes<'a>,
}

#[derive(Clone, Copy)]
enum Planes<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
    Int8 { data: &'a [i8], scales: &'a [u16] },
    Int4 { codes: &'a [u8], scales: &'a [u16], offsets: Option<&'a [u16]> },
    Simulated { data: &'a [f32], scheme: Scheme },
}

impl<'a> Rows<'a> {
    /// Claims the planes that products read.
    ///
    /// # Panics
    /// If a plane's length does not fit the shape.
    pub fn claim(claims: &mut Claims<'a>, w: &Weight) -> Self {
        let (len, padded, groups) = (w.shape.len(), w.shape.padded_len(), w.shape.groups());
        let planes = match (w.kind, w.scheme) {
            (WeightKind::F32, _) => Planes::F32(sized(claims.read(w.data), len)),
            (WeightKind::Bf16, _) => Planes::Bf16(sized(claims.read(w.data), len)),
            (WeightKind::Int8, _) => {
                Planes::Int8 { data: sized(claims.read(w.data), padded), scales: sized(claims.read(w.scales), groups) }
            }
            (WeightKind::Int4, scheme) => Planes::Int4 {
                codes: sized(claims.read(w.data), padded / 2),
                scales: sized(claims.read(w.scales), groups),
                offsets: (scheme == Scheme::Asymmetric).then(|| sized(claims.read(w.offsets), groups)),
            },
            (WeightKind::Int4Simulated, scheme) => Planes::Simulated { data: sized(claims.read(w.data), len), scheme },
        };
        Self { shape: w.shape, planes }
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.shape.rows
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.shape.cols
    }

    /// Elements `from..from + out.len()` of a row.
    ///
    /// # Panics
    /// If `from` is not a multiple of [`PIECE`], or the piece is neither whole groups nor the row's end.
    pub fn read(&self, isa: Isa, row: usize, from: usize, out: &mut [f32]) {
        let GroupedShape { cols, group, .. } = self.shape;
        let to = from + out.len();
        assert!(
            from.is_multiple_of(PIECE) && (to == cols || to < cols && to.is_multiple_of(group)),
            "columns {from}..{to} of {cols}"
        );
        let plain = row * cols + from..row * cols + to;
        let padded = row * self.shape.padded_cols() + from;
        let first_group = padded / group;
        let groups = first_group..first_group + out.len().div_ceil(group);
        let nibbles = padded / 2..(padded + groups.len() * group) / 2;
        match self.planes {
            Planes::F32(data) => out.copy_from_slice(&data[plain]),
            Planes::Bf16(data) => read_bf16(isa, &data[plain], out),
            Planes::Int8 { data, scales } => {
                read_int8(isa, &data[padded..padded + out.len()], &scales[groups], group, out);
            }
            Planes::Int4 { codes, scales, offsets } => {
                let offsets = offsets.map(|offsets| &offsets[groups.clone()]);
                read_int4(isa, &codes[nibbles], &scales[groups], offsets, group, out);
            }
            Planes::Simulated { data, scheme } => match scheme {
                Scheme::Symmetric => round_symmetric(isa, &data[plain], group, out),
                Scheme::Asymmetric => round_asymmetric(isa, &data[plain], group, out),
            },
        }
    }
}

fn sized<T>(plane: &[T], len: usize) -> &[T] {
    assert_eq!(plane.len(), len, "elements of a plane");
    plane
}

vectorized! {
    /// A bfloat16 is the upper half of a float32.
    fn read_bf16(data: &[u16], out: &mut [f32]) {
        for (out, &bits) in out.iter_mut().zip(data) {
            *out = f32::from_bits(u32::from(bits) << 16);
        }
    }
}

vectorized! {
    fn read_int8(data: &[i8], scales: &[u16], group: usize, out: &mut [f32]) {
        for ((out, data), &scale) in out.chunks_mut(group).zip(data.chunks(group)).zip(scales) {
            let scale = f16::from_bits(scale).to_f32();
            for (out, &code) in out.iter_mut().zip(data) {
                *out = scale * f32::from(code);
            }
        }
    }
}

vectorized! {
    /// `s (q - 8)`, rounded once; with offsets `s q + o`, rounded twice on every instruction set.
    fn read_int4(codes: &[u8], scales: &[u16], offsets: Option<&[u16]>, group: usize, out: &mut [f32]) {
        for (g, (out, codes)) in out.chunks_mut(group).zip(codes.chunks_exact(group / 2)).enumerate() {
            let scale = f16::from_bits(scales[g]).to_f32();
            match offsets {
                None => unpack_group(codes, out, |code| scale * (f32::from(code) - 8.0)),
                Some(offsets) => {
                    let offset = f16::from_bits(offsets[g]).to_f32();
                    unpack_group(codes, out, |code| scale * f32::from(code) + offset);
                }
            }
        }
    }
}

#[inline(always)]
fn unpack_group(codes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let whole = out.len() / BLOCK * BLOCK;
    let (blocks, tail) = out.split_at_mut(whole);
    for (block, bytes) in blocks.chunks_exact_mut(BLOCK).zip(codes.chunks_exact(BLOCK / 2)) {
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

/// A group whose range is below this is rounded as if it had this range.
const LEAST_RANGE: f32 = 1e-5;

vectorized! {
    /// Per group `s clamp(round(x / s), -8, 7)` with `s = absmax / 7`; halves go to the even neighbour.
    fn round_symmetric(data: &[f32], group: usize, out: &mut [f32]) {
        for (out, data) in out.chunks_mut(group).zip(data.chunks(group)) {
            let (low, high) = range(data);
            let scale = high.max(-low).max(LEAST_RANGE) / 7.0;
            for (out, &x) in out.iter_mut().zip(data) {
                *out = scale * (x / scale).round_ties_even().clamp(-8.0, 7.0);
            }
        }
    }
}

vectorized! {
    /// Per group `s (clamp(round(x / s) + z, 0, 15) - z)` with `s = (max - min) / 15` and
    /// `z = clamp(-round(min / s), 0, 15)`, as in arXiv 2502.17055; halves go to the even neighbour.
    fn round_asymmetric(data: &[f32], group: usize, out: &mut [f32]) {
        for (out, data) in out.chunks_mut(group).zip(data.chunks(group)) {
            let (low, high) = range(data);
            let scale = (high - low).max(LEAST_RANGE) / 15.0;
            let zero = (-(low / scale).round_ties_even()).clamp(0.0, 15.0);
            for (out, &x) in out.iter_mut().zip(data) {
                *out = scale * (((x / scale).round_ties_even() + zero).clamp(0.0, 15.0) - zero);
            }
        }
    }
}

/// Least and greatest element; NaN is passed over here and stays NaN when its own element is rounded.
#[inline(always)]
fn range(data: &[f32]) -> (f32, f32) {
    const LANES: usize = 16;
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let (whole, tail) = data.as_chunks::<LANES>();
    for x in whole {
        for j in 0..LANES {
            low[j] = if x[j] < low[j] { x[j] } else { low[j] };
            high[j] = if x[j] > high[j] { x[j] } else { high[j] };
        }
    }
    for &x in tail {
        low[0] = low[0].min(x);
        high[0] = high[0].max(x);
    }
    (low.into_iter().fold(f32::INFINITY, f32::min), high.into_iter().fold(f32::NEG_INFINITY, f32::max))
}
