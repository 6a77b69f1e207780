//! Where a parameter's planes lie.

use crate::backend::Scheme;
use crate::memory::Span;
use crate::quant::{GroupedShape, StateSpec};

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightKind {
    /// float32 `data`, unpadded.
    F32,
    /// bfloat16 `data`, unpadded.
    Bf16,
    /// One signed byte per element in `data`, padded; `scales`.
    Int8,
    /// Nibbles in `data`, `scales` (and `offsets`), optionally `residue`.
    Int4,
    /// float32 `data`, unpadded; products see it rounded to four bits per group.
    Int4Simulated,
}

/// A matrix `[rows, cols]` (or a vector: one row) and its planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Rows, columns, group.
    pub shape: GroupedShape,
    /// How it is stored.
    pub kind: WeightKind,
    /// Whether groups have offsets (for `Int4Simulated`: whether the rounding is asymmetric).
    pub scheme: Scheme,
    /// The plane that products read: codes, bytes or floats.
    pub data: Span,
    /// f16 `[rows, groups_per_row]`, for `Int8` and `Int4`.
    pub scales: Span,
    /// f16 `[rows, groups_per_row]`, for asymmetric `Int4`.
    pub offsets: Span,
    /// The nibbles below the codes, for `Int4` with residue.
    pub residue: Span,
}

impl Weight {
    /// All planes, in the file's order; those it does not have are empty.
    pub fn planes(&self) -> [Span; 4] {
        [self.data, self.scales, self.offsets, self.residue]
    }
}

/// One tensor of a parameter's optimizer state, as the rule declared it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateTensor {
    /// Name, codec and shape.
    pub spec: StateSpec,
    /// Elements.
    pub data: Span,
    /// bfloat16, one per group of a compact format.
    pub scales: Span,
}

/// The optimizer state of a parameter: the tensors that its rule declared, in that order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State([Option<StateTensor>; State::MOST]);

impl State {
    /// State tensors of a parameter at most.
    pub const MOST: usize = 6;

    /// Tensors for `specs` of a parameter of shape `param`; their planes lie where `add` puts them, given each plane's
    /// name and bytes.
    ///
    /// # Panics
    /// If there are more than [`State::MOST`].
    pub fn place(specs: &[StateSpec], param: GroupedShape, add: &mut dyn FnMut(&str, usize) -> Span) -> Self {
        assert!(specs.len() <= Self::MOST, "{} state tensors, at most {} are possible", specs.len(), Self::MOST);
        let mut state = Self::default();
        for (tensor, &spec) in state.0.iter_mut().zip(specs) {
            let [data, scales] = spec.format.bytes(param);
            let data = add(spec.name, data);
            let scales = if scales > 0 { add(&format!("{} scales", spec.name), scales) } else { Span::NONE };
            *tensor = Some(StateTensor { spec, data, scales });
        }
        state
    }

    /// All tensors in the order of their declaration.
    pub fn tensors(&self) -> impl Iterator<Item = &StateTensor> {
        self.0.iter().flatten()
    }

    /// The tensor of a name.
    pub fn get(&self, name: &str) -> Option<&StateTensor> {
        self.tensors().find(|tensor| tensor.spec.name == name)
    }

    /// All planes: of each tensor its elements, then its scales if it has any.
    pub fn planes(&self) -> impl Iterator<Item = Span> + use<> {
        let tensors = *self;
        tensors.0.into_iter().flatten().flat_map(|t| [t.data, t.scales]).filter(|span| !span.is_none())
    }
}

/// A trainable parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Number in the model's table; part of the key of its random numbers.
    pub id: u32,
    /// Number of its group of parameters, each of which has a rule. No operation reads it.
    pub group: u8,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Whether rows without a gradient are left as they are, but for resets of their moments.
    pub sparse: bool,
    /// Its values.
    pub weight: Weight,
    /// Its state.
    pub state: State,
}
