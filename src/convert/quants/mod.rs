//! The tensor types of other formats: bytes and values of a row.
//!
//! The layouts of blocks are those of ggml. Blocks lie along a row, so a row is a whole number of them.

mod k;
mod legacy;
mod planes;

pub use planes::{GroupBits, group_bits};

use crate::quant::WeightCodec;
use half::{bf16, f16};

/// A supported type of tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    Mxfp4,
}

/// Kind, tag in GGUF, elements and bytes of a block, name.
const KINDS: [(Kind, u32, usize, usize, &str); 12] = [
    (Kind::F32, 0, 1, 4, "F32"),
    (Kind::F16, 1, 1, 2, "F16"),
    (Kind::Bf16, 30, 1, 2, "BF16"),
    (Kind::Q4_0, 2, 32, 18, "Q4_0"),
    (Kind::Q4_1, 3, 32, 20, "Q4_1"),
    (Kind::Q5_0, 6, 32, 22, "Q5_0"),
    (Kind::Q5_1, 7, 32, 24, "Q5_1"),
    (Kind::Q8_0, 8, 32, 34, "Q8_0"),
    (Kind::Q4K, 12, 256, 144, "Q4_K"),
    (Kind::Q5K, 13, 256, 176, "Q5_K"),
    (Kind::Q6K, 14, 256, 210, "Q6_K"),
    (Kind::Mxfp4, 39, 32, 17, "MXFP4"),
];

/// Names of unsupported types, for messages.
const OTHERS: [(u32, &str); 16] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
];

impl Kind {
    fn row(self) -> &'static (Kind, u32, usize, usize, &'static str) {
        KINDS.iter().find(|row| row.0 == self).expect("every kind is in the table")
    }

    /// The kind of a GGUF tag.
    pub fn from_tag(tag: u32) -> Option<Self> {
        KINDS.iter().find(|row| row.1 == tag).map(|row| row.0)
    }

    /// Its tag in GGUF.
    pub fn tag(self) -> u32 {
        self.row().1
    }

    /// The type that has the values of a codec, bit for bit.
    pub fn of(codec: WeightCodec) -> Self {
        match codec {
            WeightCodec::F32 => Self::F32,
            WeightCodec::F16 => Self::F16,
            WeightCodec::Bf16 => Self::Bf16,
            WeightCodec::Int8 => Self::Q8_0,
            WeightCodec::Int4 => Self::Q4_0,
            WeightCodec::Int4Offset => Self::Q4_1,
            WeightCodec::Fp4 => Self::Mxfp4,
        }
    }

    /// Whether groups of this type are groups of a codec, bit for bit or code for code (see [`group_bits`]).
    pub fn has_groups_of(self, codec: WeightCodec) -> bool {
        match self {
            Self::Q4_0 => codec.is_int4(),
            Self::Q4_1 | Self::Q4K => codec.is_int4() && codec.has_offsets(),
            Self::Q8_0 | Self::Mxfp4 => self == Self::of(codec),
            _ => false,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().4
    }

    /// Elements of a block.
    pub fn block(self) -> usize {
        self.row().2
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of a row of `cols` elements, a whole number of blocks.
    pub fn row_bytes(self, cols: usize) -> usize {
        cols / self.block() * self.block_bytes()
    }

    /// The values of a row.
    ///
    /// # Panics
    /// If `row` is not as long as [`Kind::row_bytes`] of `out.len()`.
    pub fn decode(self, row: &[u8], out: &mut [f32]) {
        assert_eq!(row.len(), self.row_bytes(out.len()), "a row of {} {} elements", out.len(), self.name());
        let blocks = row.chunks_exact(self.block_bytes()).zip(out.chunks_exact_mut(self.block()));
        match self {
            Kind::F32 => blocks.for_each(|(b, out)| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Kind::F16 => blocks.for_each(|(b, out)| out[0] = half(b)),
            Kind::Bf16 => blocks.for_each(|(b, out)| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Kind::Q4_0 => blocks.for_each(|(b, out)| legacy::q4_0(b, out)),
            Kind::Q4_1 => blocks.for_each(|(b, out)| legacy::q4_1(b, out)),
            Kind::Q5_0 => blocks.for_each(|(b, out)| legacy::q5_0(b, out)),
            Kind::Q5_1 => blocks.for_each(|(b, out)| legacy::q5_1(b, out)),
            Kind::Q8_0 => blocks.for_each(|(b, out)| legacy::q8_0(b, out)),
            Kind::Q4K => blocks.for_each(|(b, out)| k::q4(b, out)),
            Kind::Q5K => blocks.for_each(|(b, out)| k::q5(b, out)),
            Kind::Q6K => blocks.for_each(|(b, out)| k::q6(b, out)),
            Kind::Mxfp4 => blocks.for_each(|(b, out)| legacy::mxfp4(b, out)),
        }
    }
}

/// The name of a GGUF tag, supported or not.
pub fn tag_name(tag: u32) -> String {
    let known = KINDS.iter().map(|row| (row.1, row.4)).chain(OTHERS);
    known.into_iter().find(|(t, _)| *t == tag).map_or_else(|| tag.to_string(), |(_, name)| name.into())
}

/// The f16 at the beginning of a block.
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}
