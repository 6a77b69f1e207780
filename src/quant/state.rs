//! How a tensor of optimizer state is stored: the one place that knows the bytes of its planes.

use super::{GroupedShape, MomentCodec, PAD_NIBBLE};

/// The type of a state tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateFormat {
    /// float32, unpadded.
    F32,
    /// One signed byte per element in padded rows, one bfloat16 scale per group.
    Int8,
    /// One nibble per element, stored plus 8, in padded rows, one bfloat16 scale per group.
    Int4,
    /// Numbers that are never negative, as their roots: one byte per element, else as `Int8`.
    RootInt8,
    /// Numbers that are never negative, as their roots: one nibble per element, else as `Int4`.
    RootInt4,
}

impl StateFormat {
    /// The codec of a compact format; nothing for float32.
    pub fn codec(self) -> Option<MomentCodec> {
        match self {
            Self::F32 => None,
            Self::Int8 => Some(MomentCodec::M8),
            Self::Int4 => Some(MomentCodec::M4),
            Self::RootInt8 => Some(MomentCodec::V8),
            Self::RootInt4 => Some(MomentCodec::V4),
        }
    }

    /// Bits of an element, scales not counted.
    pub fn bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::Int8 | Self::RootInt8 => 8,
            Self::Int4 | Self::RootInt4 => 4,
        }
    }

    /// The byte that a plane of zeros is filled with.
    pub fn zero_byte(self) -> u8 {
        if self == Self::Int4 { PAD_NIBBLE * 17 } else { 0 }
    }
}

/// A tensor of optimizer state, as a rule declares it for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateSpec {
    /// Its name among the parameter's state.
    pub name: &'static str,
    /// The type of its elements.
    pub format: StateFormat,
    /// Its own rows, columns and group: those of the weight, or one number per row (`[rows, 1]`), per column
    /// (`[1, cols]`), a low-rank factor (`[rank, cols]`), a few scalars (`[1, count]`).
    pub shape: GroupedShape,
}

impl StateSpec {
    /// Numbers that a tensor needs beside its elements, in float32: per row, per column, or of the tensor.
    pub fn floats(name: &'static str, rows: usize, cols: usize) -> Self {
        Self { name, format: StateFormat::F32, shape: GroupedShape::new(rows, cols, super::GROUPS[0]) }
    }

    /// Bytes of the plane of elements, and of the plane of scales.
    pub fn bytes(&self) -> [usize; 2] {
        let g = self.shape;
        match self.format.bits() {
            32 => [4 * g.len(), 0],
            8 => [g.padded_len(), 2 * g.groups()],
            _ => [g.nibble_bytes(), 2 * g.groups()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_have_the_bytes_of_their_elements_and_groups() {
        let spec = |format| StateSpec { name: "m", format, shape: GroupedShape::new(3, 100, 64) };
        assert_eq!(spec(StateFormat::F32).bytes(), [1200, 0]);
        assert_eq!(spec(StateFormat::Int8).bytes(), [3 * 128, 2 * 6]);
        assert_eq!(spec(StateFormat::RootInt4).bytes(), [3 * 64, 2 * 6]);
        assert_eq!(StateSpec::floats("scalars", 1, 8).bytes(), [32, 0]);
    }

    #[test]
    fn a_plane_of_zeros_decodes_to_zeros() {
        for format in [StateFormat::Int8, StateFormat::Int4, StateFormat::RootInt8, StateFormat::RootInt4] {
            let codec = format.codec().expect("a compact format");
            let mut codes = [format.zero_byte(); 32];
            if format.bits() == 4 {
                super::super::unpack(&[format.zero_byte(); 16], &mut codes);
                codec.from_nibbles(&mut codes);
            }
            let mut values = [1.0; 32];
            codec.decode(&codes, 0x3f80, &mut values);
            assert_eq!(values, [0.0; 32], "{format:?}");
        }
    }
}
