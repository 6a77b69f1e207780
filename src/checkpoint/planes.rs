//! A parameter's planes under the names of the file.

use crate::backend::adam::{SCALARS, state};
use crate::backend::{Param, StateTensor};
use crate::format::{NamedState, Plane, PlaneKind, Tensor, TensorPlan, TensorSpec};
use crate::memory::Span;
use crate::model::ParamSpec;
use crate::quant::{Element, StateCodec, StateFormat, StateShape, StateSpec};

/// The tensor of an entry as a file describes it.
pub fn spec(entry: &ParamSpec) -> TensorSpec {
    let (name, g, storage) = (entry.kind.name(), entry.shape, entry.format.codec());
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

/// The planes of a parameter's weight that it has, the residue among them.
pub fn weight_planes(param: &Param) -> impl Iterator<Item = ParamPlane> + use<> {
    let w = param.weight;
    let planes = w.format.planes().map(move |(plane, layout)| {
        let kind = PlaneKind::of_weight(w.format.codec(), plane);
        ParamPlane { kind, element: layout.element, span: w.span(plane) }
    });
    planes.filter(|plane| !plane.span.is_none())
}

/// State that every version of the format has a kind of plane for.
struct Fixed {
    name: &'static str,
    shape: StateShape,
    kind: PlaneKind,
    scales: Option<PlaneKind>,
    /// Whether its codes, if it may have any, have signs.
    signed: bool,
}

const FIXED: [Fixed; 5] = {
    use PlaneKind as P;
    use StateShape::{PerCol, PerRow, PerWeight, Scalars};
    [
        Fixed { name: state::M, shape: PerWeight, kind: P::M, scales: Some(P::MScales), signed: true },
        Fixed { name: state::V, shape: PerWeight, kind: P::V, scales: Some(P::VScales), signed: false },
        Fixed { name: state::V_ROWS, shape: PerRow, kind: P::VRows, scales: None, signed: true },
        Fixed { name: state::V_COLS, shape: PerCol, kind: P::VCols, scales: None, signed: true },
        Fixed { name: state::SCALARS, shape: Scalars(SCALARS), kind: P::Scalars, scales: None, signed: true },
    ]
};

impl Fixed {
    /// The kinds for a declaration, if they can hold it in this tensor.
    fn of(tensor: &TensorSpec, spec: &StateSpec) -> Option<&'static Self> {
        let StateFormat { codec, shape } = spec.format;
        let fits = |row: &Self| {
            let codes = codec == StateCodec::F32 || Self::codec(codec.element(), row.signed) == Some(codec);
            row.name == spec.name && row.shape == shape && codes
        };
        let row = FIXED.iter().find(|row| fits(row))?;
        tensor.plane_len(row.kind, codec.element()).map(|_| row)
    }

    /// The codec of elements of a type.
    fn codec(element: Element, signed: bool) -> Option<StateCodec> {
        let codec = |known: &StateCodec| match known {
            StateCodec::F32 => true,
            StateCodec::Int8 { signed: known } | StateCodec::Int4 { signed: known } => *known == signed,
        };
        StateCodec::ALL.into_iter().find(|known| codec(known) && known.element() == element)
    }
}

/// The state of a parameter in a file: the entries that name what has no kind of its own, and all planes.
fn state_planes(tensor: &TensorSpec, param: &Param) -> (Vec<NamedState>, Vec<ParamPlane>) {
    let tensors: Vec<&StateTensor> = param.state.tensors().collect();
    let mut fixed: Vec<_> = tensors.iter().map(|found| Fixed::of(tensor, &found.spec)).collect();
    let has = |name| tensors.iter().zip(&fixed).any(|(found, row)| found.spec.name == name && row.is_some());
    // Second moments have kinds of their own only as Adam's family combines them (R25).
    if has(state::V_ROWS) == has(state::V) || (has(state::V_COLS) && !has(state::V_ROWS)) {
        let second = [state::V, state::V_ROWS, state::V_COLS];
        fixed.iter_mut().filter(|row| row.is_some_and(|row| second.contains(&row.name))).for_each(|row| *row = None);
    }
    let (mut named, mut planes) = (Vec::new(), Vec::new());
    for (found, row) in tensors.into_iter().zip(fixed) {
        let format = found.spec.format;
        let kinds = match row {
            Some(row) => [Some(row.kind), row.scales],
            None => {
                named.push(NamedState::new(found.spec.name, format, param.weight.shape.group));
                let entry = named.len() as u8 - 1;
                [Some(PlaneKind::State(entry)), Some(PlaneKind::StateScales(entry))]
            }
        };
        let elements = [format.codec.element(), Element::Bf16];
        for ((kind, element), span) in kinds.into_iter().zip(elements).zip([found.data, found.scales]) {
            let Some(kind) = kind.filter(|_| !span.is_none()) else { continue };
            planes.push(ParamPlane { kind, element, span });
        }
    }
    (named, planes)
}

/// A parameter as a tensor of a file with its weight alone or with all that resuming needs, and where its planes lie.
pub fn plan(entry: &ParamSpec, param: &Param, whole: bool) -> (TensorPlan, Vec<ParamPlane>) {
    let spec = spec(entry);
    let mut planes: Vec<_> = weight_planes(param).filter(|plane| whole || !plane.kind.is_optimizer()).collect();
    let (state, of_state) = if whole { state_planes(&spec, param) } else { Default::default() };
    planes.extend(of_state);
    let fixed = planes.iter().filter(|plane| plane.kind.named_state().is_none());
    let plan = TensorPlan { spec, planes: fixed.map(|plane| (plane.kind, plane.element)).collect(), state };
    (plan, planes)
}

/// A state tensor of a file.
#[derive(Clone, Debug)]
pub struct SavedState {
    /// Name, codec, shape.
    pub state: NamedState,
    /// Its elements.
    pub data: Plane,
    /// Their scales, if it has any.
    pub scales: Option<Plane>,
}

/// The state of a tensor of a file.
pub fn saved_state(tensor: &Tensor) -> Vec<SavedState> {
    let fixed = FIXED.iter().filter_map(|row| {
        let data = *tensor.plane(row.kind)?;
        let codec = Fixed::codec(data.element()?, row.signed)?;
        let state = NamedState::new(row.name, StateFormat::new(codec, row.shape), tensor.spec.group as usize);
        Some(SavedState { state, data, scales: row.scales.and_then(|kind| tensor.plane(kind)).copied() })
    });
    let named = tensor.state.iter().enumerate().filter_map(|(entry, state)| {
        let data = *tensor.plane(PlaneKind::State(entry as u8))?;
        let scales = tensor.plane(PlaneKind::StateScales(entry as u8)).copied();
        Some(SavedState { state: state.clone(), data, scales })
    });
    fixed.chain(named).collect()
}

/// A state tensor of a parameter in the words of a file.
pub fn declared(param: &Param, tensor: &StateTensor) -> NamedState {
    NamedState::new(tensor.spec.name, tensor.spec.format, param.weight.shape.group)
}
