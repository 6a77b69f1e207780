//! State tensors that a file names: the metadata's member `state` lists name, codec and shape of each, so that a reader
//! needs to know no rule. Rules R42 to R44; files of minor version 0 have no such list.

use super::header::cap;
use super::metadata::escape;
use super::name;
use super::plane::PlaneKind;
use super::spec::TensorSpec;
use crate::error::{FormatError, StateError};
use crate::quant::{Element, GROUPS, GroupedShape, StateCodec, StateFormat, StateShape};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt;

/// The member of the metadata.
pub(crate) const MEMBER: &str = "state";

/// What the list says of one state tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedState {
    /// Its name, by the rule of tensors' names (R16).
    pub name: String,
    /// Codec and shape.
    pub format: StateFormat,
    /// Elements per group of its codes, along its own columns; 0 if it is f32.
    pub group: u32,
}

/// For people: `projection int4 [8, 40] in groups of 32`.
impl fmt::Display for NamedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.format.codec.name(), self.format.shape)?;
        if self.group > 0 { write!(f, " in groups of {}", self.group) } else { Ok(()) }
    }
}

impl NamedState {
    /// The state tensor of a parameter whose groups have `group` elements.
    pub fn new(name: impl Into<String>, format: StateFormat, group: usize) -> Self {
        let group = if format.codec == StateCodec::F32 { 0 } else { group as u32 };
        Self { name: name.into(), format, group }
    }

    /// Rows and columns of its elements, beside a tensor; one row unless there is one per weight or a matrix.
    pub fn dims(&self, tensor: &TensorSpec) -> [u64; 2] {
        match self.format.shape {
            StateShape::PerWeight => [tensor.rows(), tensor.cols()],
            StateShape::PerRow => [1, tensor.rows()],
            StateShape::PerCol => [1, tensor.cols()],
            StateShape::Matrix { rows, cols } => [rows as u64, cols as u64],
            StateShape::Scalars(count) => [1, count as u64],
        }
    }

    /// The shape of its elements; that of floats, which are not padded, has the smallest group.
    pub fn grouped_shape(&self, tensor: &TensorSpec) -> GroupedShape {
        let [rows, cols] = self.dims(tensor);
        let group = if self.group > 0 { self.group as usize } else { GROUPS[0] };
        GroupedShape::new(rows as usize, cols as usize, group)
    }

    /// Type of its elements, or of its scales.
    pub(crate) fn element(&self, scales: bool) -> Option<Element> {
        let (values, of_scales) = self.format.planes();
        if scales { of_scales.map(|layout| layout.element) } else { Some(values.element) }
    }

    /// Bytes of its elements or of its scales (R23).
    pub(crate) fn plane_len(&self, tensor: &TensorSpec, scales: bool) -> Option<u64> {
        let (values, of_scales) = self.format.planes();
        let layout = if scales { of_scales? } else { values };
        let [rows, cols] = match self.format.shape {
            StateShape::Matrix { .. } => self.dims(tensor),
            _ => [tensor.rows(), tensor.cols()],
        };
        Some(layout.bytes_of(rows, cols, self.group.into()))
    }

    /// The kinds of its planes, as entry `entry` of its tensor's list.
    pub fn kinds(&self, entry: usize) -> impl Iterator<Item = (PlaneKind, Element)> + use<> {
        let kinds = [(PlaneKind::State(entry as u8), false), (PlaneKind::StateScales(entry as u8), true)];
        kinds.map(|(kind, scales)| Some((kind, self.element(scales)?))).into_iter().flatten()
    }

    /// More elements than the cap, padding included.
    fn too_large(&self, tensor: &TensorSpec) -> bool {
        let [rows, cols] = self.dims(tensor);
        let padded = cols.checked_next_multiple_of(u64::from(self.group).max(1));
        padded.and_then(|cols| rows.checked_mul(cols)).is_none_or(|elements| elements > cap::ELEMENTS)
    }

    fn to_json(&self) -> Value {
        let (per, dims) = match self.format.shape {
            StateShape::PerWeight => ("weight", None),
            StateShape::PerRow => ("row", None),
            StateShape::PerCol => ("column", None),
            StateShape::Matrix { rows, cols } => ("matrix", Some(vec![rows, cols])),
            StateShape::Scalars(count) => ("tensor", Some(vec![count])),
        };
        let mut entry = json!({ "name": self.name, "codec": self.format.codec.name(), "per": per });
        if let Some(dims) = dims {
            entry["dims"] = dims.into();
        }
        if self.group > 0 {
            entry["group"] = self.group.into();
        }
        entry
    }
}

/// The name of a plane of a tensor with this state.
pub(crate) fn plane_name(state: &[NamedState], kind: PlaneKind) -> String {
    let named = kind.named_state().and_then(|(entry, scales)| Some((state.get(entry)?, scales)));
    match named {
        None => kind.name(),
        Some((state, false)) => state.name.clone(),
        Some((state, true)) => format!("{}-scales", state.name),
    }
}

/// The metadata of a file whose tensors have these names and state.
pub(crate) fn put<'a>(
    metadata: &Map<String, Value>,
    tensors: impl Iterator<Item = (&'a str, &'a [NamedState])>,
) -> Map<String, Value> {
    let lists = tensors.filter(|(_, state)| !state.is_empty());
    let lists: Map<_, _> = lists
        .map(|(name, state)| (name.to_owned(), state.iter().map(NamedState::to_json).collect::<Vec<_>>().into()))
        .collect();
    let mut metadata = metadata.clone();
    metadata.insert(MEMBER.into(), lists.into());
    metadata
}

/// Takes the lists out of the metadata: the state of each tensor, in the order of `specs`; R42, and R16 for the names.
pub(crate) fn take(
    metadata: &mut Map<String, Value>,
    specs: &[TensorSpec],
    index: &HashMap<String, usize>,
) -> Result<Vec<Vec<NamedState>>, FormatError> {
    let mut state = vec![Vec::new(); specs.len()];
    let lists = match metadata.remove(MEMBER) {
        None => return Ok(state),
        Some(Value::Object(lists)) => lists,
        Some(other) => return Err(StateError::NoObject { found: shown(&other) }.into()),
    };
    for (name, list) in lists {
        let Some(&tensor) = index.get(&name) else {
            return Err(StateError::NoTensor { name: escape(&format!("{name:?}")) }.into());
        };
        let max = cap::STATE;
        let list = match list {
            Value::Array(list) if (1..=max).contains(&list.len()) => list,
            Value::Array(list) => {
                return Err(StateError::NoList { tensor: name, found: format!("{} entries", list.len()), max }.into());
            }
            other => return Err(StateError::NoList { tensor: name, found: shown(&other), max }.into()),
        };
        let read = |(entry, value)| Reader { tensor: &specs[tensor], entry }.read(value);
        state[tensor] = list.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    }
    Ok(state)
}

fn shown(value: &Value) -> String {
    escape(&value.to_string())
}

/// Reads one entry.
struct Reader<'a> {
    tensor: &'a TensorSpec,
    entry: usize,
}

impl Reader<'_> {
    fn read(&self, value: &Value) -> Result<NamedState, FormatError> {
        let Some(entry) = value.as_object() else { return Err(self.wrong("it", Some(value), "an object").into()) };
        let Some(name) = entry.get("name").and_then(Value::as_str) else {
            return Err(self.wrong("name", entry.get("name"), "a string").into());
        };
        let name = name::check(name.as_bytes(), "state", self.entry)?.to_owned();
        let names = StateCodec::ALL.map(StateCodec::name);
        let codec = StateCodec::ALL[self.word(entry, "codec", &names)?];
        let shape = self.shape(entry, codec == StateCodec::F32)?;
        let group = self.group(entry, codec == StateCodec::F32)?;
        let known = ["name", "codec", "per", "dims", "group"];
        if let Some((member, value)) = entry.iter().find(|(member, _)| !known.contains(&member.as_str())) {
            return Err(self.wrong(member, Some(value), "absent").into());
        }
        let state = NamedState { name, format: StateFormat::new(codec, shape), group };
        if state.too_large(self.tensor) {
            let tensor = self.tensor.name.clone();
            return Err(StateError::Elements { tensor, entry: self.entry, max: cap::ELEMENTS }.into());
        }
        Ok(state)
    }

    /// What there is an element for. Codes need rows along which their groups lie.
    fn shape(&self, entry: &Map<String, Value>, floats: bool) -> Result<StateShape, StateError> {
        let words = ["weight", "matrix", "row", "column", "tensor"];
        let words = if floats { &words[..] } else { &words[..2] };
        let per = self.word(entry, "per", words)?;
        let count = [0, 2, 0, 0, 1][per];
        let allowed = ["absent", "1 number above 0", "2 numbers above 0"][count];
        let wrong = || self.wrong("dims", entry.get("dims"), allowed);
        let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
        let dims: Vec<usize> = match entry.get("dims") {
            None => Vec::new(),
            Some(Value::Array(dims)) if count > 0 => {
                dims.iter().map(number).collect::<Option<_>>().ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        match (per, &dims[..]) {
            (0, []) => Ok(StateShape::PerWeight),
            (1, &[rows, cols]) => Ok(StateShape::Matrix { rows, cols }),
            (2, []) => Ok(StateShape::PerRow),
            (3, []) => Ok(StateShape::PerCol),
            (4, &[count]) => Ok(StateShape::Scalars(count)),
            _ => Err(wrong()),
        }
    }

    fn group(&self, entry: &Map<String, Value>, floats: bool) -> Result<u32, StateError> {
        match entry.get("group") {
            None if floats => Ok(0),
            Some(value) if floats => Err(self.wrong("group", Some(value), "absent")),
            value => {
                let found = value.and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
                let known = found.filter(|n| GROUPS.contains(n));
                known.map(|n| n as u32).ok_or_else(|| self.wrong("group", value, "32, 64, 128 or 256"))
            }
        }
    }

    /// The position of a member's value among the words that are allowed.
    fn word(&self, entry: &Map<String, Value>, member: &str, words: &[&str]) -> Result<usize, StateError> {
        let value = entry.get(member);
        let found = value.and_then(Value::as_str).and_then(|word| words.iter().position(|known| *known == word));
        found.ok_or_else(|| self.wrong(member, value, &format!("one of {}", words.join(", "))))
    }

    fn wrong(&self, member: &str, value: Option<&Value>, allowed: &str) -> StateError {
        StateError::Member {
            tensor: self.tensor.name.clone(),
            entry: self.entry,
            member: escape(member),
            found: value.map_or("absent".into(), shown),
            allowed: allowed.into(),
        }
    }
}
