//! How a tensor of optimizer state is stored: what its elements are, and how many of them a parameter has.

use super::plane::{Element, Per, PlaneLayout};
use super::{GroupedShape, MomentCodec};
use std::fmt;

/// The code of a state tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateCodec {
    /// 32-bit floats.
    F32,
    /// One byte per element under a bf16 scale per group. Unsigned ones are roots of what they stand for.
    Int8 {
        /// Whether elements have signs.
        signed: bool,
    },
    /// One nibble per element under a bf16 scale per group. Unsigned ones are roots of what they stand for; signed
    /// ones are stored plus 8.
    Int4 {
        /// Whether elements have signs.
        signed: bool,
    },
}

/// How many elements a state tensor has, beside a parameter `[rows, cols]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateShape {
    /// One per weight.
    PerWeight,
    /// One per row.
    PerRow,
    /// One per column.
    PerCol,
    /// A matrix of its own, such as a projection or the state of a projected gradient.
    Matrix {
        /// Rows.
        rows: usize,
        /// Columns, the axis along which groups lie.
        cols: usize,
    },
    /// This many numbers.
    Scalars(usize),
}

/// How one tensor of optimizer state is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateFormat {
    /// The code of its elements.
    pub codec: StateCodec,
    /// How many there are.
    pub shape: StateShape,
}

/// A tensor of optimizer state, as a rule declares it for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateSpec {
    /// Its name among the parameter's state.
    pub name: &'static str,
    /// How it is stored.
    pub format: StateFormat,
}

impl StateSpec {
    /// One element per weight.
    pub const fn per_weight(name: &'static str, codec: StateCodec) -> Self {
        Self { name, format: StateFormat::new(codec, StateShape::PerWeight) }
    }

    /// Float32 numbers: one per row, one per column, or a few of the whole tensor.
    ///
    /// # Panics
    /// If `shape` is one per weight.
    pub const fn floats(name: &'static str, shape: StateShape) -> Self {
        assert!(!matches!(shape, StateShape::PerWeight), "elements have a codec of their own");
        Self { name, format: StateFormat::new(StateCodec::F32, shape) }
    }
}

impl StateCodec {
    /// All codecs.
    pub const ALL: [Self; 5] = [
        Self::F32,
        Self::Int8 { signed: true },
        Self::Int8 { signed: false },
        Self::Int4 { signed: true },
        Self::Int4 { signed: false },
    ];

    /// Its name in SPEC.md, in `dump` and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 { signed: true } => "int8",
            Self::Int8 { signed: false } => "int8-root",
            Self::Int4 { signed: true } => "int4",
            Self::Int4 { signed: false } => "int4-root",
        }
    }

    /// Rounding and scaling of its elements; none for floats.
    pub const fn moment(self) -> Option<MomentCodec> {
        match self {
            Self::F32 => None,
            Self::Int8 { signed: true } => Some(MomentCodec::M8),
            Self::Int8 { signed: false } => Some(MomentCodec::V8),
            Self::Int4 { signed: true } => Some(MomentCodec::M4),
            Self::Int4 { signed: false } => Some(MomentCodec::V4),
        }
    }

    /// Type of its elements.
    pub const fn element(self) -> Element {
        match self {
            Self::F32 => Element::F32,
            Self::Int8 { signed: true } => Element::I8,
            Self::Int8 { signed: false } => Element::U8,
            Self::Int4 { .. } => Element::Nibble,
        }
    }

    /// The byte that zeros are made of: all bits zero, but a signed nibble's zero is 8.
    pub const fn zero_byte(self) -> u8 {
        match self {
            Self::Int4 { signed: true } => 0x88,
            _ => 0,
        }
    }
}

impl StateFormat {
    /// A state tensor.
    ///
    /// # Panics
    /// If codes have no rows along which groups could lie.
    pub const fn new(codec: StateCodec, shape: StateShape) -> Self {
        let grouped = matches!(shape, StateShape::PerWeight | StateShape::Matrix { .. });
        assert!(grouped || matches!(codec, StateCodec::F32), "rows, columns and scalars are float32");
        Self { codec, shape }
    }

    /// Layout of its values, and of their scales if it has any. For a matrix of its own the layouts are those of that
    /// matrix, see [`StateFormat::shape_for`].
    pub const fn planes(self) -> (PlaneLayout, Option<PlaneLayout>) {
        let per = match self.shape {
            StateShape::PerWeight | StateShape::Matrix { .. } => Per::Weight,
            StateShape::PerRow => Per::Row,
            StateShape::PerCol => Per::Col,
            StateShape::Scalars(count) => Per::Tensor(count),
        };
        let scales = match self.codec {
            StateCodec::F32 => None,
            _ => Some(PlaneLayout::new(Element::Bf16, Per::Group)),
        };
        (PlaneLayout::new(self.codec.element(), per), scales)
    }

    /// The matrix whose planes it has, for a parameter of shape `param`.
    pub fn shape_for(self, param: GroupedShape) -> GroupedShape {
        match self.shape {
            StateShape::Matrix { rows, cols } => GroupedShape::new(rows, cols, param.group),
            _ => param,
        }
    }

    /// Its elements as a matrix, for a parameter of shape `param`; what is no matrix is one row.
    pub fn matrix(self, param: GroupedShape) -> GroupedShape {
        match self.shape {
            StateShape::PerWeight | StateShape::Matrix { .. } => self.shape_for(param),
            StateShape::PerRow => GroupedShape { rows: 1, cols: param.rows, ..param },
            StateShape::PerCol => GroupedShape { rows: 1, ..param },
            StateShape::Scalars(count) => GroupedShape::new(1, count, param.group),
        }
    }

    /// Bytes of its values and of their scales, for a parameter of shape `param`.
    pub fn bytes(self, param: GroupedShape) -> [usize; 2] {
        let (values, scales) = self.planes();
        let shape = self.shape_for(param);
        [values.bytes(shape), scales.map_or(0, |scales| scales.bytes(shape))]
    }
}

/// For people: `per weight`, `[8, 40]`.
impl fmt::Display for StateShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerWeight => f.write_str("per weight"),
            Self::PerRow => f.write_str("per row"),
            Self::PerCol => f.write_str("per column"),
            Self::Matrix { rows, cols } => write!(f, "[{rows}, {cols}]"),
            Self::Scalars(count) => write!(f, "[{count}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_from_codec_and_shape() {
        let param = GroupedShape::new(3, 100, 64);
        let bytes = |codec, shape| StateFormat::new(codec, shape).bytes(param);
        for signed in [true, false] {
            assert_eq!(bytes(StateCodec::Int8 { signed }, StateShape::PerWeight), [384, 12]);
            assert_eq!(bytes(StateCodec::Int4 { signed }, StateShape::PerWeight), [192, 12]);
            assert_eq!(bytes(StateCodec::Int4 { signed }, StateShape::Matrix { rows: 2, cols: 65 }), [128, 8]);
        }
        assert_eq!(bytes(StateCodec::F32, StateShape::PerWeight), [1200, 0]);
        assert_eq!(bytes(StateCodec::F32, StateShape::PerRow), [12, 0]);
        assert_eq!(bytes(StateCodec::F32, StateShape::PerCol), [400, 0]);
        assert_eq!(bytes(StateCodec::F32, StateShape::Matrix { rows: 4, cols: 100 }), [1600, 0]);
        assert_eq!(bytes(StateCodec::F32, StateShape::Scalars(8)), [32, 0]);
    }

    #[test]
    fn zero_bytes_decode_to_zero() {
        for codec in
            [true, false].into_iter().flat_map(|signed| [StateCodec::Int8 { signed }, StateCodec::Int4 { signed }])
        {
            let moment = codec.moment().expect("codes have a codec");
            let mut codes = match codec.element() {
                Element::Nibble => vec![codec.zero_byte() & 15; 64],
                _ => vec![codec.zero_byte(); 64],
            };
            if codec.element() == Element::Nibble {
                moment.from_nibbles(&mut codes);
            }
            let mut values = [1.0; 64];
            moment.decode(&codes, 0x3f80, &mut values);
            assert_eq!(values, [0.0; 64], "{codec:?}");
        }
    }
}
