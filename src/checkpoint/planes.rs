//! A parameter's planes under the names of the file.

use crate::backend::adam::state;
use crate::backend::{Param, Scheme, StateTensor, WeightKind};
use crate::format::{Element, PlaneKind, Storage, TensorSpec};
use crate::memory::Span;
use crate::model::ParamSpec;
use crate::quant::StateCodec;

/// The tensor of an entry as a file describes it.
pub fn spec(entry: &ParamSpec, scheme: Scheme) -> TensorSpec {
    let (name, g) = (entry.kind.name(), entry.shape);
    let storage = match entry.storage {
        WeightKind::F32 | WeightKind::Int4Simulated => Storage::F32,
        WeightKind::Bf16 => Storage::Bf16,
        WeightKind::Int8 => Storage::Int8,
        WeightKind::Int4 if scheme == Scheme::Asymmetric => Storage::Int4Asymmetric,
        WeightKind::Int4 => Storage::Int4,
    };
    if entry.kind.is_vector() {
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
    let (kind, element) = match w.kind {
        WeightKind::F32 | WeightKind::Int4Simulated => (PlaneKind::Data, Element::F32),
        WeightKind::Bf16 => (PlaneKind::Data, Element::Bf16),
        WeightKind::Int8 => (PlaneKind::Bytes, Element::I8),
        WeightKind::Int4 => (PlaneKind::Codes, Element::Nibble),
    };
    let weight = [
        (kind, element, w.data),
        (PlaneKind::Scales, Element::F16, w.scales),
        (PlaneKind::Offsets, Element::F16, w.offsets),
        (PlaneKind::Residue, Element::Nibble, w.residue),
    ];
    let state = param.state;
    let state = state.tensors().flat_map(state_planes).collect::<Vec<_>>();
    let planes = weight.into_iter().chain(state).filter(|(_, _, span)| !span.is_none());
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
    let element = match tensor.spec.format.codec {
        StateCodec::F32 => Element::F32,
        StateCodec::Int8 { signed: true } => Element::I8,
        StateCodec::Int8 { signed: false } => Element::U8,
        StateCodec::Int4 { .. } => Element::Nibble,
    };
    [(kind, element, tensor.data), (scales, Element::Bf16, tensor.scales)]
}
