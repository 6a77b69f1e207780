//! Where a parameter's planes lie.

use crate::backend::{Moment, SecondMoment};
use crate::memory::Span;
use crate::quant::{GroupedShape, WeightFormat, WeightPlane};

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

/// The optimizer state of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// How `m` is stored.
    pub m_kind: Moment,
    /// How `v` is stored.
    pub v_kind: SecondMoment,
    /// First moment: float32 unpadded, or bytes or nibbles padded.
    pub m: Span,
    /// bf16 per group, unless float32.
    pub m_scales: Span,
    /// Second moment: float32 unpadded, or its root in bytes or nibbles, padded; or float32 `[rows]`, means of rows.
    pub v: Span,
    /// bf16 per group, where `v` is bytes or nibbles.
    pub v_scales: Span,
    /// float32 `[cols]`, means of columns, where `v` is factored.
    pub v_cols: Span,
    /// float32 `[8]`: the rule's scalars, see [`crate::optim::Scalars`].
    pub scalars: Span,
}

impl State {
    /// All planes, in the file's order; those it does not have are empty.
    pub fn planes(&self) -> [Span; 6] {
        [self.m, self.m_scales, self.v, self.v_scales, self.v_cols, self.scalars]
    }
}

/// A trainable parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Number in the model's table; part of the key of its random numbers.
    pub id: u32,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Whether rows without a gradient are left as they are, but for resets of their moments.
    pub sparse: bool,
    /// Its values.
    pub weight: Weight,
    /// Its state.
    pub state: State,
}
