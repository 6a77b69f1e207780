//! Planes as numbers, row by row: what `dump` shows and `diff` compares. A readable reference, no fast path.

use super::plane::{Element, PlaneKind};
use super::read::{File, PlaneView};
use super::spec::{Storage, TensorSpec};
use crate::quant::nibble;
use half::{bf16, f16};
use zerocopy::little_endian::{F32, U16};

/// Which of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The deployed weight: for INT4 the code's value.
    Weight,
    /// The trained weight: code and residue.
    Trained,
    /// First moment.
    M,
    /// Second moment (the square of what is stored, if quantized).
    V,
}

impl Role {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Weight, Self::Trained, Self::M, Self::V];

    /// Its name in `dump`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Trained => "trained",
            Self::M => "m",
            Self::V => "v",
        }
    }

    /// The plane that must be there.
    fn plane(self, storage: Storage) -> PlaneKind {
        match self {
            Self::M => PlaneKind::M,
            Self::V => PlaneKind::V,
            Self::Trained => PlaneKind::Residue,
            Self::Weight if storage.is_int4() => PlaneKind::Codes,
            Self::Weight if storage == Storage::Int8 => PlaneKind::Bytes,
            Self::Weight => PlaneKind::Data,
        }
    }
}

/// Decodes the rows of one tensor in one role.
pub struct Decoder<'a> {
    rows: usize,
    cols: usize,
    padded_cols: usize,
    group: usize,
    source: Source<'a>,
}

enum Source<'a> {
    F32(&'a [F32]),
    F16(&'a [U16]),
    Bf16(&'a [U16]),
    Grouped { level: Level<'a>, scales: &'a [U16], bf16_scales: bool, offsets: Option<&'a [U16]> },
}

/// The integer (or sixteenth of one) that a scale multiplies.
enum Level<'a> {
    Nibble { plane: &'a [u8], zero: f32 },
    Trained { codes: &'a [u8], residue: &'a [u8], zero: f32 },
    Signed(&'a [i8]),
    Root(&'a [u8]),
    RootNibble(&'a [u8]),
}

impl Level<'_> {
    /// The value of padded element `i` under scale `s`.
    #[inline]
    fn value(&self, i: usize, s: f32) -> f32 {
        match self {
            Self::Nibble { plane, zero } => s * (f32::from(nibble(plane, i)) - zero),
            Self::Trained { codes, residue, zero } => {
                let byte = nibble(codes, i) << 4 | nibble(residue, i);
                s * (f32::from(byte) - zero) / 16.0
            }
            Self::Signed(plane) => s * f32::from(plane[i]),
            Self::Root(plane) => (s * f32::from(plane[i])).powi(2),
            Self::RootNibble(plane) => (s * f32::from(nibble(plane, i))).powi(2),
        }
    }
}

impl<'a> Decoder<'a> {
    /// The decoder of a tensor's values in a role; `None` if it has none.
    ///
    /// # Panics
    /// If there is no tensor of this index.
    pub fn new(file: &File<'a>, tensor: usize, role: Role) -> Option<Self> {
        let spec = &file.head().tensors[tensor].spec;
        let plane = |kind| file.plane(tensor, kind);
        let view = plane(role.plane(spec.storage))?;
        let source = match view.plane.element {
            Element::F32 => Source::F32(view.f32s()?),
            Element::F16 => Source::F16(view.u16s()?),
            Element::Bf16 => Source::Bf16(view.u16s()?),
            _ => {
                let level = level(spec, role, &view, plane(PlaneKind::Codes))?;
                let (scales, bf16_scales) = match role {
                    Role::Weight | Role::Trained => (PlaneKind::Scales, false),
                    Role::M => (PlaneKind::MScales, true),
                    Role::V => (PlaneKind::VScales, true),
                };
                let offsets = if bf16_scales { None } else { plane(PlaneKind::Offsets).and_then(|p| p.u16s()) };
                Source::Grouped { level, scales: plane(scales)?.u16s()?, bf16_scales, offsets }
            }
        };
        let (rows, cols) = (spec.rows() as usize, spec.cols() as usize);
        let padded_cols = spec.grouped_shape().map_or(cols, |g| g.padded_cols());
        Some(Self { rows, cols, padded_cols, group: (spec.group as usize).max(1), source })
    }

    /// Rows: the product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row, padding not counted.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Decodes row `row` into `out`.
    ///
    /// # Panics
    /// If there is no such row, or `out` has not [`cols`](Self::cols) elements.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} into {} elements", out.len());
        let plain = row * self.cols..(row + 1) * self.cols;
        match &self.source {
            Source::F32(data) => out.iter_mut().zip(&data[plain]).for_each(|(o, x)| *o = x.get()),
            Source::F16(data) => out.iter_mut().zip(&data[plain]).for_each(|(o, x)| *o = half_value(*x)),
            Source::Bf16(data) => out.iter_mut().zip(&data[plain]).for_each(|(o, x)| *o = brain_value(*x)),
            Source::Grouped { level, scales, bf16_scales, offsets } => {
                let first = row * self.padded_cols;
                for (g, out) in out.chunks_mut(self.group).enumerate() {
                    let group = first / self.group + g;
                    let s = if *bf16_scales { brain_value(scales[group]) } else { half_value(scales[group]) };
                    let o = offsets.map_or(0.0, |offsets| half_value(offsets[group]));
                    for (k, out) in out.iter_mut().enumerate() {
                        *out = level.value(first + g * self.group + k, s) + o;
                    }
                }
            }
        }
    }
}

/// How the levels of a grouped role are stored.
fn level<'a>(spec: &TensorSpec, role: Role, view: &PlaneView<'a>, codes: Option<PlaneView<'a>>) -> Option<Level<'a>> {
    let asymmetric = spec.storage == Storage::Int4Asymmetric;
    Some(match (role, view.plane.element) {
        (Role::Weight, Element::Nibble) => {
            Level::Nibble { plane: view.bytes, zero: if asymmetric { 0.0 } else { 8.0 } }
        }
        (Role::Trained, Element::Nibble) => {
            let zero = if asymmetric { 8.0 } else { 136.0 };
            Level::Trained { codes: codes?.bytes, residue: view.bytes, zero }
        }
        (Role::M, Element::Nibble) => Level::Nibble { plane: view.bytes, zero: 8.0 },
        (Role::V, Element::Nibble) => Level::RootNibble(view.bytes),
        (Role::V, Element::U8) => Level::Root(view.bytes),
        (_, Element::I8) => Level::Signed(view.i8s()?),
        _ => return None,
    })
}

/// The value of an f16.
pub(crate) fn half_value(bits: U16) -> f32 {
    f16::from_bits(bits.get()).to_f32()
}

/// The value of a bf16.
pub(crate) fn brain_value(bits: U16) -> f32 {
    bf16::from_bits(bits.get()).to_f32()
}
