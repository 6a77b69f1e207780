//! The directory: tensor records, plane records, names. They are checked against each other and against the file's
//! length before anything uses them.

use super::align_up;
use super::header::{HEADER, Header, PLANE_ALIGN, REGION_ALIGN};
use super::name;
use super::plane::{PlaneKind, element_from_tag, element_name, element_tag};
use super::read::Tensor;
use super::record::{OPTIONAL, PLANE_RECORD, PlaneRecord, TENSOR_RECORD, TensorRecord};
use super::spec::TensorSpec;
use super::state::{NamedState, plane_name};
use crate::error::{FormatError, StateError};
use crate::quant::Element;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use zerocopy::FromBytes;

/// A plane's place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// Index of its tensor.
    pub tensor: usize,
    /// What it holds.
    pub kind: PlaneKind,
    /// The tag of its elements' type.
    pub element_tag: u8,
    /// Offset of its first byte in the file; a multiple of 64.
    pub offset: u64,
    /// Its length in bytes, without the padding after it.
    pub len: u64,
    /// xxh3-64 of its bytes.
    pub checksum: u64,
}

impl Plane {
    /// The type of its elements; `None` in a plane of unknown kind whose type is unknown too.
    pub fn element(&self) -> Option<Element> {
        element_from_tag(self.element_tag)
    }

    /// The name of its elements' type: `f32`, or `type 0x40` if it is unknown.
    pub fn element_name(&self) -> String {
        element_name(self.element_tag)
    }

    /// The order of records: region, tensor, kind.
    pub(crate) fn key(&self) -> (bool, usize, u8) {
        (self.kind.is_optimizer(), self.tensor, self.kind.tag())
    }

    /// Its range of bytes in the file.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }
}

/// R5 and R11 to R17: the tensors, and their indices by name.
pub(crate) fn tensors(
    records: &[u8],
    names: &[u8],
    header: &Header,
) -> Result<(Vec<TensorSpec>, HashMap<String, usize>), FormatError> {
    let records = <[TensorRecord]>::ref_from_bytes(records).expect("the header's counts make this length");
    let mut specs = Vec::with_capacity(records.len());
    for (i, record) in records.iter().enumerate() {
        specs.push(TensorSpec::from_record(record, i, (HEADER + i * TENSOR_RECORD) as u64, header.required.get())?);
    }
    let mut index = HashMap::with_capacity(specs.len());
    let mut rest = names;
    for (i, spec) in specs.iter_mut().enumerate() {
        let what = "tensor";
        let left = rest.len() as u64;
        let name = name::take(&mut rest).map_err(|needed| FormatError::NamesShort { what, index: i, needed, left })?;
        spec.name = name::check(name, what, i)?.into();
        name::register(&mut index, &spec.name, what, i)?;
    }
    match rest.len() {
        0 => Ok((specs, index)),
        left => Err(FormatError::NamesLeft { left: left as u64 }),
    }
}

/// R18 to R26, R43 and R44: the planes, in file order. They are put into `tensors` too.
pub(crate) fn planes(
    records: &[u8],
    start: u64,
    tensors: &mut [Tensor],
    header: &Header,
) -> Result<Vec<Plane>, FormatError> {
    let records = <[PlaneRecord]>::ref_from_bytes(records).expect("the header's counts make this length");
    let mut place = Place::new(header);
    let mut planes: Vec<Plane> = Vec::with_capacity(records.len());
    for (i, record) in records.iter().enumerate() {
        let at = start + (i * PLANE_RECORD) as u64;
        let plane = what(record, i, at, tensors, header.minor.get())?;
        if planes.last().is_some_and(|last| last.key() >= plane.key()) {
            let (tensor, kind) = (record.tensor.get(), record.kind);
            return Err(FormatError::PlaneOrder { plane: i, tensor, kind });
        }
        place.next(i, &plane)?;
        planes.push(plane);
    }
    place.finish(header)?;
    for plane in &planes {
        tensors[plane.tensor].planes.push(*plane);
    }
    tensors.iter().try_for_each(complete)?;
    Ok(planes)
}

/// R18 to R20, R22 and R23: one record, except for its offset.
fn what(record: &PlaneRecord, i: usize, at: u64, tensors: &[Tensor], minor: u16) -> Result<Plane, FormatError> {
    let tensor = record.tensor.get();
    let Some(Tensor { spec, state, .. }) = tensors.get(tensor as usize) else {
        return Err(FormatError::PlaneTensor { plane: i, found: tensor, tensors: tensors.len() as u32 });
    };
    if record.reserved != 0 {
        return Err(FormatError::Reserved { at: at + 7, found: record.reserved });
    }
    // Version 1.0 has no state by other names.
    let kind = match PlaneKind::from_tag(record.kind) {
        kind if kind.named_state().is_some() && minor == 0 => PlaneKind::Other(record.kind),
        kind => kind,
    };
    let optional = record.flags & OPTIONAL != 0;
    let known = !matches!(kind, PlaneKind::Other(_));
    let named = kind.named_state();
    if record.flags & !OPTIONAL != 0 || (known && optional != named.is_some()) {
        let allowed = match (known, named) {
            (true, Some(_)) => "only 0x01 is",
            (true, None) => "only 0x00 is",
            (false, _) => "0x00 and 0x01 are",
        };
        return Err(FormatError::PlaneFlags { plane: i, found: record.flags, allowed });
    }
    if !known && !optional {
        return Err(FormatError::PlaneKind { plane: i, found: record.kind });
    }
    let len = record.len.get();
    if !known && len == 0 {
        return Err(FormatError::PlaneEmpty { tensor: spec.name.clone(), kind: kind.name() });
    }
    if named.is_some_and(|(entry, _)| entry >= state.len()) {
        let (tensor, kind) = (spec.name.clone(), kind.name());
        return Err(StateError::NoEntry { plane: i, tensor, kind, entries: state.len() }.into());
    }
    let expected = if known { length(spec, state, kind, record.element)? } else { len };
    if len != expected {
        let (tensor, kind) = (spec.name.clone(), plane_name(state, kind));
        return Err(FormatError::PlaneLen { tensor, kind, found: len, expected });
    }
    let (offset, checksum) = (record.offset.get(), record.checksum.get());
    Ok(Plane { tensor: tensor as usize, kind, element_tag: record.element, offset, len, checksum })
}

/// R22: the length of a plane, if the tensor can have it.
pub(crate) fn length(
    spec: &TensorSpec,
    state: &[NamedState],
    kind: PlaneKind,
    element: u8,
) -> Result<u64, FormatError> {
    let len = match kind.named_state() {
        None => element_from_tag(element).and_then(|element| spec.plane_len(kind, element)),
        Some((entry, scales)) => {
            let state = state.get(entry).filter(|state| state.element(scales).map(element_tag) == Some(element));
            state.and_then(|state| state.plane_len(spec, scales))
        }
    };
    len.ok_or_else(|| FormatError::PlaneElement {
        tensor: spec.name.clone(),
        storage: spec.storage.name(),
        shape: spec.shape(),
        group: spec.group,
        kind: plane_name(state, kind),
        element: element_name(element),
    })
}

/// R25 and R43: a tensor has the planes it needs, each with a name of its own.
fn complete(tensor: &Tensor) -> Result<(), FormatError> {
    let Tensor { spec, state, planes } = tensor;
    spec.check_planes(planes.iter().map(|plane| (plane.kind, plane.element())))?;
    let kinds = state.iter().enumerate().flat_map(|(entry, state)| state.kinds(entry));
    if let Some((kind, _)) = kinds.into_iter().find(|(kind, _)| tensor.plane(*kind).is_none()) {
        return Err(FormatError::PlaneMissing { tensor: spec.name.clone(), kind: tensor.plane_name(kind) });
    }
    if state.is_empty() {
        return Ok(());
    }
    let mut names = HashSet::new();
    match planes.iter().map(|plane| tensor.plane_name(plane.kind)).find(|name| !names.insert(name.clone())) {
        None => Ok(()),
        Some(name) => Err(StateError::NameTwice { tensor: spec.name.clone(), name }.into()),
    }
}

/// R24 and R26: the only offset that each plane can have, since planes follow each other in order without gaps.
struct Place {
    /// End of the data before it.
    end: u64,
    /// Where the next plane starts.
    next: u64,
    /// Where the optimizer region starts, 0 while there is none.
    optimizer: u64,
    file_len: u64,
}

impl Place {
    fn new(header: &Header) -> Self {
        let (head, weights) = (header.head_len.get(), header.weights_offset.get());
        Self { end: head, next: weights, optimizer: 0, file_len: header.file_len.get() }
    }

    fn next(&mut self, i: usize, plane: &Plane) -> Result<(), FormatError> {
        if plane.kind.is_optimizer() && self.optimizer == 0 {
            self.next = align_up(self.end, REGION_ALIGN).unwrap_or(u64::MAX);
            self.optimizer = self.next;
        }
        let (offset, len, expected) = (plane.offset, plane.len, self.next);
        if offset % PLANE_ALIGN != 0 {
            return Err(FormatError::PlaneAlign { plane: i, found: offset, align: PLANE_ALIGN });
        }
        if offset < self.end {
            return Err(FormatError::PlaneOverlap { plane: i, found: offset, end: self.end });
        }
        let end = offset.checked_add(len).filter(|&end| end <= self.file_len);
        let Some(end) = end else {
            return Err(FormatError::PlaneOutside { plane: i, offset, len, end: self.file_len });
        };
        if offset != expected {
            return Err(FormatError::PlaneHole { plane: i, found: offset, expected });
        }
        self.end = end;
        self.next = align_up(end, PLANE_ALIGN).unwrap_or(u64::MAX);
        Ok(())
    }

    fn finish(&self, header: &Header) -> Result<(), FormatError> {
        let found = header.optimizer_offset.get();
        if found != self.optimizer {
            return Err(FormatError::OptimizerOffset { found, expected: self.optimizer });
        }
        if self.end != self.file_len {
            return Err(FormatError::End { end: self.end, len: self.file_len });
        }
        Ok(())
    }
}
