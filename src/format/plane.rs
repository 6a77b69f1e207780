//! Kinds of planes, their element types, and the length that shape and type make.

use super::spec::TensorSpec;
use crate::error::FormatError;
use crate::quant::{Element, Per, PlaneLayout, WeightCodec, WeightFormat, WeightPlane};
use bitvec::prelude::{BitArr, bitarr};

/// Values in a `scalars` plane.
pub const SCALARS: usize = 8;

/// What a plane holds. The high bit of its tag puts it into the optimizer region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlaneKind {
    /// Plain floats, unpadded.
    Data,
    /// The INT4 weight.
    Codes,
    /// The int8 weight.
    Bytes,
    /// One f16 per group.
    Scales,
    /// One f16 per group, asymmetric storage only.
    Offsets,
    /// The four bits below the code.
    Residue,
    /// First moment.
    M,
    /// One bf16 per group of a quantized first moment.
    MScales,
    /// Second moment; quantized as its square root.
    V,
    /// One bf16 per group of a quantized second moment.
    VScales,
    /// Mean of the squared gradient per row, f32.
    VRows,
    /// Mean of the squared gradient per column, f32.
    VCols,
    /// [`SCALARS`] f32 values of the optimizer's own.
    Scalars,
    /// A state tensor that the file names: the entry of this number in its tensor's list, see
    /// [`NamedState`](super::NamedState).
    State(u8),
    /// One bf16 per group of that state tensor.
    StateScales(u8),
    /// An optional plane of a newer minor version.
    Other(u8),
}

/// Tags of the state tensors that a file names, and of their scales: this and the number of the entry.
const NAMED: [u8; 2] = [0x90, 0xa0];

/// The known kinds and their tags.
const KINDS: [(PlaneKind, u8, &str); 13] = [
    (PlaneKind::Data, 0x01, "data"),
    (PlaneKind::Codes, 0x02, "codes"),
    (PlaneKind::Bytes, 0x03, "bytes"),
    (PlaneKind::Scales, 0x04, "scales"),
    (PlaneKind::Offsets, 0x05, "offsets"),
    (PlaneKind::Residue, 0x81, "residue"),
    (PlaneKind::M, 0x82, "m"),
    (PlaneKind::MScales, 0x83, "m-scales"),
    (PlaneKind::V, 0x84, "v"),
    (PlaneKind::VScales, 0x85, "v-scales"),
    (PlaneKind::VRows, 0x86, "v-rows"),
    (PlaneKind::VCols, 0x87, "v-cols"),
    (PlaneKind::Scalars, 0x88, "scalars"),
];

impl PlaneKind {
    /// The kind that holds a plane of a weight.
    pub fn of_weight(codec: WeightCodec, plane: WeightPlane) -> Self {
        match (plane, codec.element()) {
            (WeightPlane::Data, Element::Nibble) => Self::Codes,
            (WeightPlane::Data, Element::I8) => Self::Bytes,
            (WeightPlane::Data, _) => Self::Data,
            (WeightPlane::Scales, _) => Self::Scales,
            (WeightPlane::Offsets, _) => Self::Offsets,
            (WeightPlane::Residue, _) => Self::Residue,
        }
    }

    /// The byte in a plane record.
    pub fn tag(self) -> u8 {
        match self {
            Self::Other(tag) => tag,
            Self::State(entry) => NAMED[0] | (entry & 15),
            Self::StateScales(entry) => NAMED[1] | (entry & 15),
            known => KINDS.iter().find(|k| k.0 == known).map_or(0, |k| k.1),
        }
    }

    /// The kind of a tag; [`PlaneKind::Other`] if it is unknown.
    pub fn from_tag(tag: u8) -> Self {
        match tag & 0xf0 {
            high if high == NAMED[0] => Self::State(tag & 15),
            high if high == NAMED[1] => Self::StateScales(tag & 15),
            _ => KINDS.iter().find(|k| k.1 == tag).map_or(Self::Other(tag), |k| k.0),
        }
    }

    /// Its name in SPEC.md and in `dump`. State that the file names has that name in
    /// [`Tensor::plane_name`](super::Tensor::plane_name).
    pub fn name(self) -> String {
        match self {
            Self::Other(tag) => format!("0x{tag:02x}"),
            Self::State(entry) => format!("state-{entry}"),
            Self::StateScales(entry) => format!("state-{entry}-scales"),
            known => known.known_name().into(),
        }
    }

    fn known_name(self) -> &'static str {
        KINDS.iter().find(|k| k.0 == self).map_or("unknown", |k| k.2)
    }

    /// The number of the entry that names its tensor, if it holds state that the file names, and whether it is the scales.
    pub fn named_state(self) -> Option<(usize, bool)> {
        match self {
            Self::State(entry) => Some((entry.into(), false)),
            Self::StateScales(entry) => Some((entry.into(), true)),
            _ => None,
        }
    }

    /// Whether it lies in the optimizer region, which a deployable file lacks.
    pub fn is_optimizer(self) -> bool {
        self.tag() & 0x80 != 0
    }
}

/// The types of elements and the tags that name them in a plane record.
const ELEMENTS: [(Element, u8); 7] = [
    (Element::F32, 1),
    (Element::F16, 2),
    (Element::Bf16, 3),
    (Element::I8, 4),
    (Element::U8, 5),
    (Element::Nibble, 6),
    (Element::PowerOfTwo, 7),
];

/// The byte that names a type of elements in a plane record.
pub fn element_tag(element: Element) -> u8 {
    ELEMENTS.iter().find(|row| row.0 == element).map_or(0, |row| row.1)
}

/// The type of elements that a byte of a plane record names; `None` if it is of a later version, which only planes of
/// unknown kind may have.
pub fn element_from_tag(tag: u8) -> Option<Element> {
    ELEMENTS.iter().find(|row| row.1 == tag).map(|row| row.0)
}

/// The type that a tag names, in `dump` and in messages.
pub fn element_name(tag: u8) -> String {
    element_from_tag(tag).map_or_else(|| format!("type 0x{tag:02x}"), |element| element.name().into())
}

impl TensorSpec {
    /// Bytes of a `kind` plane of `element`; `None` if this tensor cannot have one. The table of R22 and R23.
    pub fn plane_len(&self, kind: PlaneKind, element: Element) -> Option<u64> {
        // Capped at 2^48 elements, padding included.
        Some(self.layout(kind, element)?.bytes_of(self.rows(), self.cols(), self.group.into()))
    }

    fn layout(&self, kind: PlaneKind, element: Element) -> Option<PlaneLayout> {
        use {Element as E, PlaneKind as P};
        let (matrix, grouped) = (self.dims.len() == 2, self.group != 0);
        let one_of = |types: &[E], per| types.contains(&element).then(|| PlaneLayout::new(element, per));
        match kind {
            P::M if grouped => one_of(&[E::F32, E::I8, E::Nibble], Per::Weight),
            P::V if grouped => one_of(&[E::F32, E::U8, E::Nibble], Per::Weight),
            P::M | P::V => one_of(&[E::F32], Per::Weight),
            P::MScales | P::VScales if grouped => one_of(&[E::Bf16], Per::Group),
            P::VRows if matrix => one_of(&[E::F32], Per::Row),
            P::VCols if matrix => one_of(&[E::F32], Per::Col),
            P::Scalars => one_of(&[E::F32], Per::Tensor(SCALARS)),
            _ => {
                let planes = WeightFormat::of(self.storage).with_residue(true).planes();
                let mut layouts = planes.filter(|(plane, _)| PlaneKind::of_weight(self.storage, *plane) == kind);
                layouts.next().and_then(|(_, layout)| one_of(&[layout.element], layout.per))
            }
        }
    }

    /// The planes that make its weight.
    pub fn weight_planes(&self) -> impl Iterator<Item = (PlaneKind, Element)> + use<> {
        let codec = self.storage;
        let planes = WeightFormat::of(codec).planes();
        planes.map(move |(plane, layout)| (PlaneKind::of_weight(codec, plane), layout.element))
    }

    /// R25: whether `planes` make a whole tensor.
    pub(crate) fn check_planes<I>(&self, planes: I) -> Result<(), FormatError>
    where
        I: Iterator<Item = (PlaneKind, Option<Element>)>,
    {
        let mut kinds: BitArr!(for 256) = bitarr![0; 256];
        let (mut scaled_m, mut scaled_v) = (false, false);
        for (kind, element) in planes {
            kinds.set(kind.tag().into(), true);
            scaled_m |= kind == PlaneKind::M && element != Some(Element::F32);
            scaled_v |= kind == PlaneKind::V && element != Some(Element::F32);
        }
        let has = |kind: PlaneKind| kinds[usize::from(kind.tag())];
        let missing = |kind: PlaneKind| FormatError::PlaneMissing { tensor: self.name.clone(), kind: kind.name() };
        if let Some((kind, _)) = self.weight_planes().find(|p| !has(p.0)) {
            return Err(missing(kind));
        }
        for (needed, scales, without) in [
            (scaled_m, PlaneKind::MScales, "an m plane that is f32 or absent"),
            (scaled_v, PlaneKind::VScales, "a v plane that is f32 or absent"),
        ] {
            match (needed, has(scales)) {
                (true, false) => return Err(missing(scales)),
                (false, true) => return Err(self.conflict(scales, without)),
                _ => {}
            }
        }
        if has(PlaneKind::VCols) && !has(PlaneKind::VRows) {
            return Err(missing(PlaneKind::VRows));
        }
        if has(PlaneKind::VRows) && has(PlaneKind::V) {
            return Err(self.conflict(PlaneKind::VRows, "a v plane"));
        }
        Ok(())
    }

    fn conflict(&self, kind: PlaneKind, other: &'static str) -> FormatError {
        FormatError::PlaneConflict { tensor: self.name.clone(), kind: kind.known_name(), other }
    }
}
