//! Groups of 32 that need no second quantization: our planes hold the same bits.

use super::Kind;
use super::k::scale_and_min;
use half::f16;

/// A group of 32 elements as stored in our planes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GroupBits {
    /// Value `s (q - 8)`.
    Symmetric {
        /// f16 bits.
        scale: u16,
        /// Nibbles in the order of a block.
        codes: [u8; 16],
    },
    /// Value `s q + o`.
    Asymmetric {
        /// f16 bits.
        scale: u16,
        /// f16 bits.
        offset: u16,
        /// Nibbles in the order of a block.
        codes: [u8; 16],
    },
    /// A power of two times four-bit floats.
    Floats {
        /// The byte of the power.
        scale: u8,
        /// Nibbles in the order of a block.
        codes: [u8; 16],
    },
    /// Value `s c`.
    Bytes {
        /// f16 bits.
        scale: u16,
        /// Signed.
        codes: [u8; 32],
    },
}

impl GroupBits {
    /// The same values with an offset: `-8 s` is exact unless it leaves the range of f16.
    pub fn with_offset(self) -> Self {
        match self {
            Self::Symmetric { scale, codes } => {
                let offset = f16::from_f32(-8.0 * f16::from_bits(scale).to_f32()).to_bits();
                Self::Asymmetric { scale, offset, codes }
            }
            other => other,
        }
    }

    /// Whether our format can hold it: finite numbers, signed bytes other than -128, and a scale for them that is not
    /// negative.
    pub fn is_sound(&self) -> bool {
        let finite = |bits| f16::from_bits(bits).is_finite();
        match *self {
            Self::Symmetric { scale, .. } => finite(scale),
            Self::Asymmetric { scale, offset, .. } => finite(scale) && finite(offset),
            // The largest of the floats times a larger power is beyond float32.
            Self::Floats { scale, .. } => scale <= 252,
            Self::Bytes { scale, codes } => {
                finite(scale) && f16::from_bits(scale).to_f32() >= 0.0 && !codes.contains(&0x80)
            }
        }
    }
}

/// Group `index` of a row, if our planes can hold groups of its type: Q4_0, Q4_1, Q8_0 and MXFP4 bit for bit; Q4_K with the
/// same codes, and its scale and minimum, products of two numbers there, rounded to f16.
pub fn group_bits(kind: Kind, row: &[u8], index: usize) -> Option<GroupBits> {
    let u16_at = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let block = |bytes: usize| &row[index * bytes..][..bytes];
    let codes = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).expect("a block is 16 bytes");
    Some(match kind {
        Kind::Q4_0 => {
            let block = block(18);
            GroupBits::Symmetric { scale: u16_at(block, 0), codes: codes(&block[2..]) }
        }
        Kind::Q4_1 => {
            let block = block(20);
            GroupBits::Asymmetric { scale: u16_at(block, 0), offset: u16_at(block, 2), codes: codes(&block[4..]) }
        }
        Kind::Q8_0 => {
            let block = block(34);
            let codes = block[2..].try_into().expect("a group is 32 bytes");
            GroupBits::Bytes { scale: u16_at(block, 0), codes }
        }
        Kind::Mxfp4 => {
            let block = block(17);
            GroupBits::Floats { scale: block[0], codes: codes(&block[1..]) }
        }
        Kind::Q4K => q4_k(&row[index / 8 * 144..][..144], index % 8),
        _ => return None,
    })
}

fn q4_k(block: &[u8], j: usize) -> GroupBits {
    let (sc, m) = scale_and_min(&block[4..16], j);
    let (d, dmin) = (super::half(block), super::half(&block[2..]));
    let (bytes, shift) = (&block[16 + j / 2 * 32..][..32], j % 2 * 4);
    let nibble = |i: usize| bytes[i] >> shift & 15;
    GroupBits::Asymmetric {
        scale: f16::from_f32(d * f32::from(sc)).to_bits(),
        offset: f16::from_f32(-(dmin * f32::from(m))).to_bits(),
        codes: std::array::from_fn(|i| nibble(i) | nibble(i + 16) << 4),
    }
}
