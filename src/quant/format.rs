//! How weights are stored: each format as a value that knows its planes, its integers and its name. The only place
//! that knows; others hold a [`WeightFormat`] and ask it.
//!
//! A new codec is a row here, its loops in [`RowEncoder`](super::RowEncoder) and [`RowDecoder`](super::RowDecoder), and
//! a row in each list of codecs: words (`model/storage.rs`), tags (`format/spec.rs`), types of GGUF (`convert/quants`),
//! kernels (`backend/cuda/ops/weights.rs`, `kernels/codecs.h`) and the reference (`backend/ops/reference.rs`).
//! `tests/structure.rs` holds that there is no other. The fused update takes what it needs from the codec's
//! [`QuantGrid`]; values that are spaced in a new way are a row of [`Levels`](super::Levels) (`kernels/grid.h`).

use super::plane::{Element, Per, PlaneLayout};
use super::{GroupedShape, Levels, QuantGrid, Simulation};
use std::fmt;

/// The code of a weight's elements: what products read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightCodec {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats. Only files hold them.
    F16,
    /// 16-bit brain floats.
    Bf16,
    /// Signed bytes, value `s c`.
    Int8,
    /// Nibbles, value `s (q - 8)`: GGUF's Q4_0.
    Int4,
    /// Nibbles, value `s q + o`: GGUF's Q4_1.
    Int4Offset,
    /// Nibbles that are floats of two exponent bits and one of mantissa, in blocks of 32 under powers of two: MXFP4.
    Fp4,
}

/// What there is to know of a codec.
struct CodecRow {
    name: &'static str,
    /// Type of the plane that products read.
    data: Element,
    /// Type of the scale of a group, if there are groups.
    scale: Option<Element>,
    /// Whether a group has an offset too, of the scale's type.
    offset: bool,
    /// The only size of a group, if there is but one.
    block: Option<usize>,
    /// The integers of codes alone, and of codes with a residue.
    grids: [Option<QuantGrid>; 2],
}

/// A code of floats.
const fn float(name: &'static str, data: Element) -> CodecRow {
    CodecRow { name, data, scale: None, offset: false, block: None, grids: [None, None] }
}

/// All codecs: one row each, in the order of the enum.
static CODECS: [CodecRow; 7] = [
    float("f32", Element::F32),
    float("f16", Element::F16),
    float("bf16", Element::Bf16),
    CodecRow {
        name: "int8",
        data: Element::I8,
        scale: Some(Element::F16),
        offset: false,
        block: None,
        grids: [Some(QuantGrid::INT8), None],
    },
    CodecRow {
        name: "int4",
        data: Element::Nibble,
        scale: Some(Element::F16),
        offset: false,
        block: None,
        grids: [Some(QuantGrid::CODES), Some(QuantGrid::INT4)],
    },
    CodecRow {
        name: "int4-asymmetric",
        data: Element::Nibble,
        scale: Some(Element::F16),
        offset: true,
        block: None,
        grids: [Some(QuantGrid::CODES), Some(QuantGrid::INT4)],
    },
    CodecRow {
        name: "fp4",
        data: Element::Nibble,
        scale: Some(Element::PowerOfTwo),
        offset: false,
        block: Some(32),
        grids: [Some(QuantGrid::FP4_CODES), Some(QuantGrid::FP4)],
    },
];

impl WeightCodec {
    /// All codecs.
    pub const ALL: [Self; 7] = [Self::F32, Self::F16, Self::Bf16, Self::Int8, Self::Int4, Self::Int4Offset, Self::Fp4];

    const fn row(self) -> &'static CodecRow {
        &CODECS[self as usize]
    }

    /// Its name in SPEC.md, in `dump` and in messages.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether the weight is cut into groups with scales.
    pub const fn is_grouped(self) -> bool {
        self.row().scale.is_some()
    }

    /// Whether a group has an offset beside its scale.
    pub const fn has_offsets(self) -> bool {
        self.row().offset
    }

    /// Whether codes can be refined by a residue: four more bits of each weight that only the optimizer reads.
    pub const fn takes_residue(self) -> bool {
        self.row().grids[1].is_some()
    }

    /// The only size that its groups may have, if there is but one.
    pub const fn block(self) -> Option<usize> {
        self.row().block
    }

    /// Whether its codes are evenly spaced integers, to which floats can be rounded in a simulation.
    pub const fn is_int4(self) -> bool {
        matches!(self, Self::Int4 | Self::Int4Offset)
    }

    /// The value of a four-bit code under a scale of 1, without an offset.
    pub fn level(self, code: u8) -> f32 {
        match self {
            Self::Fp4 => super::fp4::code_value(code),
            Self::Int4Offset => code.into(),
            _ => f32::from(code) - 8.0,
        }
    }

    /// The four-bit codes of its smallest and its largest value.
    pub const fn end_codes(self) -> [u8; 2] {
        if self.is_int4() { [0, 15] } else { [15, 7] }
    }

    /// Type of the elements that products read.
    pub const fn element(self) -> Element {
        self.row().data
    }

    /// The same codes in groups with or without offsets, if there are both.
    pub const fn with_offsets(self, offsets: bool) -> Self {
        match (self, offsets) {
            (Self::Int4, true) => Self::Int4Offset,
            (Self::Int4Offset, false) => Self::Int4,
            (codec, _) => codec,
        }
    }
}

/// What a plane of a weight holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightPlane {
    /// What products read: floats or codes.
    Data,
    /// One scale per group.
    Scales,
    /// One offset per group.
    Offsets,
    /// The four bits below each code.
    Residue,
}

impl WeightPlane {
    /// All, in the order in which they lie in memory.
    pub const ALL: [Self; 4] = [Self::Data, Self::Scales, Self::Offsets, Self::Residue];

    /// Its name in the plan of memory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Scales => "scales",
            Self::Offsets => "offsets",
            Self::Residue => "residue",
        }
    }
}

/// How a weight is stored, and how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightFormat {
    codec: WeightCodec,
    residue: bool,
    simulated: Option<Simulation>,
}

impl WeightFormat {
    /// float32.
    pub const F32: Self = Self::of(WeightCodec::F32);
    /// bfloat16; updates round stochastically.
    pub const BF16: Self = Self::of(WeightCodec::Bf16);
    /// Signed bytes with a scale per group.
    pub const INT8: Self = Self::of(WeightCodec::Int8);
    /// Four-bit codes with a scale per group, and a residue.
    pub const INT4: Self = Self { residue: true, ..Self::of(WeightCodec::Int4) };
    /// Four-bit floats with a power of two per group, and a residue.
    pub const FP4: Self = Self { residue: true, ..Self::of(WeightCodec::Fp4) };
    /// Four-bit codes with a scale and an offset per group, and a residue.
    pub const INT4_OFFSET: Self = Self { residue: true, ..Self::of(WeightCodec::Int4Offset) };

    /// The elements of a codec alone.
    pub const fn of(codec: WeightCodec) -> Self {
        Self { codec, residue: false, simulated: None }
    }

    /// float32 that products see rounded to four bits, each group by its own range.
    pub const fn simulated(simulation: Simulation) -> Self {
        Self { simulated: Some(simulation), ..Self::F32 }
    }

    /// The same with a residue where `residue` and the codec has room for one, else without.
    pub const fn with_residue(self, residue: bool) -> Self {
        Self { residue: residue && self.codec.takes_residue(), ..self }
    }

    /// The code of its elements.
    pub const fn codec(self) -> WeightCodec {
        self.codec
    }

    /// Whether its codes are evenly spaced: they are integers.
    pub fn has_even_codes(self) -> bool {
        self.grid().is_some_and(|grid| grid.levels != Levels::E2m1)
    }

    /// Whether a residue refines the codes.
    pub const fn has_residue(self) -> bool {
        self.residue
    }

    /// What products see its floats rounded to, if to anything.
    pub const fn simulates(self) -> Option<Simulation> {
        self.simulated
    }

    /// Whether it is stored as codes under scales.
    pub const fn is_quantized(self) -> bool {
        self.codec.is_grouped()
    }

    /// The integers that it is stored as; none for floats.
    pub const fn grid(self) -> Option<QuantGrid> {
        self.codec.row().grids[self.residue as usize]
    }

    /// Layout of a plane; none if it has no such plane.
    pub const fn plane(self, plane: WeightPlane) -> Option<PlaneLayout> {
        let row = self.codec.row();
        match (plane, row.scale) {
            (WeightPlane::Data, _) => Some(PlaneLayout::new(row.data, Per::Weight)),
            (WeightPlane::Scales, Some(scale)) => Some(PlaneLayout::new(scale, Per::Group)),
            (WeightPlane::Offsets, Some(scale)) if row.offset => Some(PlaneLayout::new(scale, Per::Group)),
            (WeightPlane::Residue, _) if self.residue => Some(PlaneLayout::new(Element::Nibble, Per::Weight)),
            _ => None,
        }
    }

    /// Type of the scales of its groups, f16 if it has none.
    pub const fn scale(self) -> Element {
        match self.codec.row().scale {
            Some(scale) => scale,
            None => Element::F16,
        }
    }

    /// Its planes, in the order in which they lie in memory.
    pub fn planes(self) -> impl Iterator<Item = (WeightPlane, PlaneLayout)> {
        WeightPlane::ALL.into_iter().filter_map(move |plane| Some((plane, self.plane(plane)?)))
    }

    /// Bytes of a plane; 0 if it has no such plane.
    pub fn plane_bytes(self, plane: WeightPlane, shape: GroupedShape) -> usize {
        self.plane(plane).map_or(0, |layout| layout.bytes(shape))
    }

    /// Bytes of all planes.
    pub fn bytes(self, shape: GroupedShape) -> usize {
        self.planes().map(|(_, layout)| layout.bytes(shape)).sum()
    }
}

/// For people: `INT4 codes + residue`, `bf16`.
impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.simulated, self.codec.takes_residue()) {
            (Some(simulation), _) => write!(f, "{} simulated over {}", simulation.name(), self.codec.name()),
            (None, true) => {
                let bits = if self.codec.is_int4() { "INT4" } else { "FP4" };
                write!(f, "{bits} codes{}", if self.residue { " + residue" } else { "" })
            }
            (None, false) => f.write_str(self.codec.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_has_its_row() {
        let names = ["f32", "f16", "bf16", "int8", "int4", "int4-asymmetric", "fp4"];
        for (i, codec) in WeightCodec::ALL.into_iter().enumerate() {
            assert_eq!((codec as usize, codec.name()), (i, names[i]));
            assert_eq!(codec.is_grouped(), WeightFormat::of(codec).grid().is_some());
        }
        assert_eq!(WeightCodec::Int4Offset.name(), "int4-asymmetric");
    }

    /// The planes that SPEC.md lists, in bytes for 3 rows of 100 in groups of 64 (padded: 128).
    #[test]
    fn planes_are_those_of_the_specification() {
        let shape = GroupedShape::new(3, 100, 64);
        let bytes = |format: WeightFormat| WeightPlane::ALL.map(|plane| format.plane_bytes(plane, shape));
        assert_eq!(bytes(WeightFormat::F32), [1200, 0, 0, 0]);
        assert_eq!(bytes(WeightFormat::of(WeightCodec::F16)), [600, 0, 0, 0]);
        assert_eq!(bytes(WeightFormat::BF16), [600, 0, 0, 0]);
        assert_eq!(bytes(WeightFormat::INT8), [384, 12, 0, 0]);
        assert_eq!(bytes(WeightFormat::INT4), [192, 12, 0, 192]);
        assert_eq!(bytes(WeightFormat::INT4_OFFSET), [192, 12, 12, 192]);
        assert_eq!(bytes(WeightFormat::INT4.with_residue(false)), [192, 12, 0, 0]);
        assert_eq!(bytes(WeightFormat::FP4), [192, 6, 0, 192]);
        assert_eq!(bytes(WeightFormat::INT8.with_residue(true)), [384, 12, 0, 0]);
        assert_eq!(bytes(WeightFormat::simulated(Simulation::Fp4)), [1200, 0, 0, 0]);
        assert_eq!(WeightFormat::INT4_OFFSET.bytes(shape), 408);
    }
}
