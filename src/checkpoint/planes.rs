//! A parameter's planes under the names of the file.

use crate::backend::adam::state;
use crate::backend::{Param, StateTensor};
use crate::format::{Element, PlaneKind, TensorSpec};
use crate::memory::Span;
use crate::model::Entry;
use crate::quant::StateCodec;

/// The tensor of an entry as a file describes it.
pub fn spec(entry: &Entry) -> TensorSpec {
    let (name, g, storage) = (entry.role.name(), entry.shape, entry.format.codec());
    if entry.role.is_vector() {
        return TensorSpec::plain(name, &[g.cols as u64], storage);
    }
    let grouped = storage.is_grouped() || entry.state.iter().any(|tensor| tensor.format.codec != StateCodec::F32);
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
    let w = param.weight;
    let weight = w.format.planes().map(move |(plane, layout)| {
        (PlaneKind::of_weight(w.format.codec(), plane), layout.element.into(), w.span(plane))
    });
    let state = param.state;
    let state = state.tensors().flat_map(state_planes).collect::<Vec<_>>();
    let planes = weight.chain(state).filter(|(_, _, span)| !span.is_none());
    planes.map(|(kind, element, span)| ParamPlane { kind, element, span })
}

/// The planes of a state tensor: its elements, and its scales if it has any.
fn state_planes(tensor: &StateTensor) -> [(PlaneKind, Element, Span); 2] {
    let (kind, scales) = match tensor.spec.name {
        state::M => (PlaneKind::M, PlaneKind::MScales),
        state::V => (PlaneKind::V, PlaneKind::VScales),
        state::V_ROWS => (PlaneKind::VRows, PlaneKind::VScales),
        state::V_COLS => (PlaneKind::VCols, PlaneKind::VScales),
        _ => (PlaneKind::Scalars, PlaneKind::VScales),
    };
    [(kind, tensor.spec.format.codec.element().into(), tensor.data), (scales, Element::Bf16, tensor.scales)]
}
