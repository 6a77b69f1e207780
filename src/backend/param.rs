//! Where a parameter's planes lie.

use crate::backend::{Moment, Scheme, SecondMoment};
use crate::memory::Span;
use crate::quant::GroupedShape;

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
