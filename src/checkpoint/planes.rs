//! A parameter's planes under the names of the file.

use crate::backend::{Moment, Param, SecondMoment};
use crate::format::{Element, PlaneKind, TensorSpec};
use crate::memory::Span;
use crate::model::Entry;

/// The tensor of an entry as a file describes it.
pub fn spec(entry: &Entry) -> TensorSpec {
    let (name, g, storage) = (entry.role.name(), entry.shape, entry.format.codec());
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
    let moment = |moment, byte| match moment {
        Moment::F32 => Element::F32,
        Moment::Int8 => byte,
        Moment::Int4 => Element::Nibble,
    };
    let v = match s.v_kind.per_element() {
        Some(kind) => (PlaneKind::V, moment(kind, Element::U8), s.v),
        None => (PlaneKind::VRows, Element::F32, s.v),
    };
    let of_weight = w.format.planes().map(move |(plane, layout)| {
        (PlaneKind::of_weight(w.format.codec(), plane), layout.element.into(), w.span(plane))
    });
    let of_state = [
        (PlaneKind::M, moment(s.m_kind, Element::I8), s.m),
        (PlaneKind::MScales, Element::Bf16, s.m_scales),
        v,
        (PlaneKind::VScales, Element::Bf16, s.v_scales),
        (PlaneKind::VCols, Element::F32, s.v_cols),
        (PlaneKind::Scalars, Element::F32, s.scalars),
    ];
    of_weight.chain(of_state).filter(|(_, _, span)| !span.is_none()).map(|(kind, element, span)| ParamPlane {
        kind,
        element,
        span,
    })
}
