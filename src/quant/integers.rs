//! Packed weights as the integers that they are, for products that are summed in integers.

use super::row_decoder::{each_nibble, f16_value};
use super::{RowDecoder, WeightCodec, fp4};

/// What four-bit floats are as unsigned integers: twice the value, and 12 more.
const FP4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// A weight is `scale * (integer - zero) + offset`, `integer` an unsigned byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integers {
    /// The integer of 0, or in asymmetric groups of the offset.
    pub zero: u8,
    /// Where two integers lie in a byte: what each nibble stands for; else a byte is an integer.
    pub nibbles: Option<[u8; 16]>,
    /// Whether groups have offsets.
    pub offsets: bool,
}

/// Nibbles that are the integers themselves.
const PLAIN: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Integers {
    /// Whether nibbles are the integers themselves.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.nibbles == Some(PLAIN)
    }
}

impl WeightCodec {
    /// How its weights are integers; nothing if they are floats.
    pub const fn integers(self) -> Option<Integers> {
        let (zero, nibbles, offsets) = match self {
            Self::Int4 => (8, Some(PLAIN), false),
            Self::Int4Offset => (0, Some(PLAIN), true),
            Self::Fp4 => (12, Some(FP4), false),
            // A signed byte with its sign bit turned over.
            Self::Int8 => (128, None, false),
            Self::F32 | Self::F16 | Self::Bf16 => return None,
        };
        Some(Integers { zero, nibbles, offsets })
    }

    /// Whether its codes, less the offset if there is one, are floats of four exponent bits and three of mantissa (E4M3), which
    /// hold integers up to 16: integers of four bits and four-bit floats are.
    pub const fn has_e4m3_codes(self) -> bool {
        matches!(self, Self::Int4 | Self::Int4Offset | Self::Fp4)
    }
}

impl<'a> RowDecoder<'a> {
    /// The bytes of a row's integers, padding included.
    ///
    /// # Panics
    /// If there is no such row, or the weight is stored as floats.
    #[inline(always)]
    pub fn integer_bytes(&self, row: usize) -> &'a [u8] {
        let per_byte = if self.integers().nibbles.is_some() { 2 } else { 1 };
        let bytes = self.shape.padded_cols() / per_byte;
        &self.data[row * bytes..][..bytes]
    }

    /// How the weight is integers.
    ///
    /// # Panics
    /// If it is stored as floats.
    #[inline(always)]
    pub fn integers(&self) -> Integers {
        self.format.codec().integers().expect("a weight of codes")
    }

    /// Fills `out` with the integers of a row from column `from` on.
    ///
    /// # Panics
    /// If they are not whole blocks of 32 of the padded row.
    #[inline(always)]
    pub fn read_integers(&self, row: usize, from: usize, out: &mut [u8]) {
        let bytes = self.integer_bytes(row);
        match self.integers().nibbles {
            None => out.iter_mut().zip(&bytes[from..]).for_each(|(out, byte)| *out = byte ^ 0x80),
            Some(PLAIN) => each_nibble(&bytes[from / 2..][..out.len() / 2], out, |nibble| nibble),
            Some(meanings) => {
                each_nibble(&bytes[from / 2..][..out.len() / 2], out, |nibble| meanings[usize::from(nibble)]);
            }
        }
    }

    /// Fills `scales` with those of a row's integers, one for each group, and `offsets` if there are any.
    ///
    /// # Panics
    /// If there is no such row, or a slice has another length.
    #[inline(always)]
    pub fn integer_scales(&self, row: usize, scales: &mut [f32], offsets: &mut [f32]) {
        let count = self.shape.groups_per_row();
        let first = row * count;
        assert!(scales.len() == count && offsets.len() == if self.offsets.is_empty() { 0 } else { count });
        if self.format.codec() == WeightCodec::Fp4 {
            let bytes = &self.scales[first..first + count];
            return scales.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = 0.5 * fp4::power_of_two(byte));
        }
        read_halves(&self.scales[2 * first..], scales);
        if !offsets.is_empty() {
            read_halves(&self.offsets[2 * first..], offsets);
        }
    }
}

impl<'a> RowDecoder<'a> {
    /// The bytes of the scales of a row's groups, and of their offsets if there are any, where they are of half precision.
    ///
    /// # Panics
    /// If there is no such row, or the weight is stored as floats.
    #[inline(always)]
    pub fn half_scales(&self, row: usize) -> Option<(&'a [u8], &'a [u8])> {
        let bytes = 2 * self.shape.groups_per_row();
        let of_row = |plane: &'a [u8]| if plane.is_empty() { plane } else { &plane[row * bytes..][..bytes] };
        (self.format.codec() != WeightCodec::Fp4).then(|| (of_row(self.scales), of_row(self.offsets)))
    }
}

#[inline(always)]
fn read_halves(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = f16_value(u16::from_le_bytes(*bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{GroupedShape, WeightFormat, WeightPlane};

    /// Every byte as data, every group with a scale of its own.
    #[test]
    fn integers_mean_what_the_decoder_reads() {
        for codec in [WeightCodec::Int4, WeightCodec::Int4Offset, WeightCodec::Fp4, WeightCodec::Int8] {
            let (format, shape) = (WeightFormat::of(codec), GroupedShape::new(3, 200, 64));
            let planes: Vec<Vec<u8>> = WeightPlane::ALL
                .into_iter()
                .map(|plane| {
                    let bytes = format.plane(plane).map_or(0, |layout| layout.bytes(shape));
                    // Scales and offsets of half precision between 0.1 and 8.
                    let byte =
                        |i: usize| if plane == WeightPlane::Data { (i * 7) as u8 } else { 0x30 + (i % 24) as u8 };
                    (0..bytes).map(byte).collect()
                })
                .collect();
            let decoder = RowDecoder::new(format, shape, |plane| &planes[plane as usize]);
            let zero = f32::from(decoder.integers().zero);
            for row in 0..3 {
                let (mut values, mut integers) = (vec![0.0; 200], vec![0; 256]);
                decoder.read(row, 0, &mut values);
                decoder.read_integers(row, 0, &mut integers[..128]);
                decoder.read_integers(row, 128, &mut integers[128..]);
                let mut offsets = vec![0.0; if decoder.integers().offsets { 4 } else { 0 }];
                let mut scales = [0.0; 4];
                decoder.integer_scales(row, &mut scales, &mut offsets);
                for (i, &value) in values.iter().enumerate() {
                    let (scale, offset) = (scales[i / 64], offsets.get(i / 64).unwrap_or(&0.0));
                    assert_eq!(scale * (f32::from(integers[i]) - zero) + offset, value, "{codec:?}, row {row}, {i}");
                }
            }
        }
    }
}
