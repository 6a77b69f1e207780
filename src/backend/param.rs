//! Where a parameter's planes lie.

use crate::memory::Span;
use crate::quant::{GroupedShape, StateSpec, WeightFormat, WeightPlane};

/// A matrix `[rows, cols]` (or a vector: one row) and its planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Rows, columns, group.
    pub shape: GroupedShape,
    /// How it is stored, and so which planes it has.
    pub format: WeightFormat,
    /// What products read: floats or codes.
    pub data: Span,
    /// `[rows, groups_per_row]`, of quantized formats.
    pub scales: Span,
    /// `[rows, groups_per_row]`, of formats with offsets.
    pub offsets: Span,
    /// The bits below the codes, of formats with a residue.
    pub residue: Span,
}

impl Weight {
    /// A weight whose planes lie where `add` puts them, given the bytes of each: 0 of those that the format lacks.
    pub fn place(shape: GroupedShape, format: WeightFormat, mut add: impl FnMut(WeightPlane, usize) -> Span) -> Self {
        let [data, scales, offsets, residue] =
            WeightPlane::ALL.map(|plane| add(plane, format.plane_bytes(plane, shape)));
        Self { shape, format, data, scales, offsets, residue }
    }

    /// Where a plane lies; empty if it has no such plane.
    pub fn span(&self, plane: WeightPlane) -> Span {
        match plane {
            WeightPlane::Data => self.data,
            WeightPlane::Scales => self.scales,
            WeightPlane::Offsets => self.offsets,
            WeightPlane::Residue => self.residue,
        }
    }

    /// All planes, in the order of [`WeightPlane::ALL`]; those it does not have are empty.
    pub fn planes(&self) -> [Span; 4] {
        WeightPlane::ALL.map(|plane| self.span(plane))
    }

    /// Kernels trust the lengths of planes.
    ///
    /// # Panics
    /// If a plane has another length than format and shape say.
    pub fn check(&self) {
        for plane in WeightPlane::ALL {
            let (found, bytes) = (self.span(plane).bytes, self.format.plane_bytes(plane, self.shape));
            assert_eq!(found, bytes, "bytes of {} of a {:?} weight {:?}", plane.name(), self.format, self.shape);
        }
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
    /// If there are more than [`State::MOST`], or two of one name.
    pub fn place(specs: &[StateSpec], param: GroupedShape, add: &mut dyn FnMut(&str, usize) -> Span) -> Self {
        assert!(specs.len() <= Self::MOST, "{} state tensors, at most {} are possible", specs.len(), Self::MOST);
        if let Some(i) = (1..specs.len()).find(|&i| specs[..i].iter().any(|other| other.name == specs[i].name)) {
            panic!("two state tensors are named {}", specs[i].name);
        }
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
