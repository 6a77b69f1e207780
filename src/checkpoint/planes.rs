//! A parameter's planes under the names of the file.

use crate::backend::{Moment, Param, Scheme, SecondMoment, WeightKind};
use crate::format::{Element, PlaneKind, Storage, TensorSpec};
use crate::memory::Span;
use crate::model::Entry;

/// The tensor of an entry as a file describes it.
pub fn spec(entry: &Entry, scheme: Scheme) -> TensorSpec {
    let (name, g) = (entry.role.name(), entry.shape);
    let storage = match entry.kind {
        WeightKind::F32 | WeightKind::Int4Simulated => Storage::F32,
        WeightKind::Bf16 => Storage::Bf16,
        WeightKind::Int8 => Storage::Int8,
        WeightKind::Int4 if scheme == Scheme::Asymmetric => Storage::Int4Asymmetric,
        WeightKind::Int4 => Storage::Int4,
    };
    if entry.role.is_vector() {
        return TensorSpec::plain(name, &[g.cols as u64], storage);
    }
    let compact_v = matches!(entry.moments.1, SecondMoment::Int8 | SecondMoment::Int4);
    let grouped = storage.is_grouped() || entry.moments.0 != Moment::F32 || compact_v;
    let group = if grouped { g.group as u32 } else { 0 };
    TensorSpec::grouped(name, g.rows as u64, g.cols as u64, storage, group)
}

/// One plane of a parameter.
#[derive(Clone, Copy, Debug)]
pub struct ParamPlane {
    /// Its name in the file.
    pub kind: PlaneKind,
    /// Its type in the file.
    pub element: Element,
    /// Where it lies in the arena.
    pub span: Span,
}

/// The planes that a parameter has.
pub fn planes(param: &Param) -> impl Iterator<Item = ParamPlane> + use<> {
    let (w, s) = (param.weight, param.state);
    let (kind, element) = match w.kind {
        WeightKind::F32 | WeightKind::Int4Simulated => (PlaneKind::Data, Element::F32),
        WeightKind::Bf16 => (PlaneKind::Data, Element::Bf16),
        WeightKind::Int8 => (PlaneKind::Bytes, Element::I8),
        WeightKind::Int4 => (PlaneKind::Codes, Element::Nibble),
    };
    let moment = |moment, byte| match moment {
        Moment::F32 => Element::F32,
        Moment::Int8 => byte,
        Moment::Int4 => Element::Nibble,
    };
    let v = match s.v_kind.per_element() {
        Some(kind) => (PlaneKind::V, moment(kind, Element::U8), s.v),
        None => (PlaneKind::VRows, Element::F32, s.v),
    };
    [
        (kind, element, w.data),
        (PlaneKind::Scales, Element::F16, w.scales),
        (PlaneKind::Offsets, Element::F16, w.offsets),
        (PlaneKind::Residue, Element::Nibble, w.residue),
        (PlaneKind::M, moment(s.m_kind, Element::I8), s.m),
        (PlaneKind::MScales, Element::Bf16, s.m_scales),
        v,
        (PlaneKind::VScales, Element::Bf16, s.v_scales),
        (PlaneKind::VCols, Element::F32, s.v_cols),
        (PlaneKind::Scalars, Element::F32, s.scalars),
    ]
    .into_iter()
    .filter(|(_, _, span)| !span.is_none())
    .map(|(kind, element, span)| ParamPlane { kind, element, span })
}
