//! Arguments of the operations that rules are made of ([`super::ops::Update`]), and what updates tell about themselves.

use super::Param;
use super::adam::AdamArgs;
use crate::memory::Span;
use zerocopy::{Immutable, IntoBytes};

/// What some updates did, together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UpdateStats {
    /// Sum of the squares of the finite gradients as they came, added in the order of the updates.
    pub grad_sq: f64,
    /// Groups that were rescaled.
    pub rescales: u64,
    /// Updates that changed nothing because the gradient was not finite.
    pub skipped: u64,
}

impl UpdateStats {
    /// Takes one more update into account.
    pub fn add(&mut self, other: Self) {
        self.grad_sq += other.grad_sq;
        self.rescales += other.rescales;
        self.skipped += other.skipped;
    }
}

/// One of several updates of [`super::ops::Update::adam_group`].
#[derive(Clone, Copy, Debug)]
pub struct AdamUpdate {
    /// What is updated.
    pub param: Param,
    /// Its complete gradient.
    pub grad: Span,
    /// The constants of its step.
    pub args: AdamArgs,
}

/// Constants of [`super::ops::Update::apply_update`], laid out for a kernel's argument
/// (`UpdateArgs` in `backend/cuda/kernels/adam.h`).
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, Immutable)]
#[repr(C)]
pub struct UpdateArgs {
    /// Seed of the run.
    pub seed: u64,
    /// Step, for the random numbers.
    pub number: u32,
    /// What the direction is multiplied by, before it is subtracted.
    pub lr: f32,
    /// Share of the weight that decays.
    pub decay: f32,
    /// Zero.
    pub reserved: u32,
}

/// Constants of [`super::ops::Update::momentum`], laid out for a kernel's argument (`MomentumArgs` in
/// `backend/cuda/kernels/adam.h`).
///
/// With `s` the state before and `s'` the state after: `s' = keep s + add x`, and x becomes
/// `of_x x + of_old s + of_new s'`, or the sign of that.
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, Immutable)]
#[repr(C)]
pub struct MomentumArgs {
    /// Seed of the run.
    pub seed: u64,
    /// Step, for the random numbers.
    pub number: u32,
    /// What is left of the state.
    pub keep: f32,
    /// The share of x in the state.
    pub add: f32,
    /// The share of x in the result.
    pub of_x: f32,
    /// The share of the former state in the result.
    pub of_old: f32,
    /// The share of the new state in the result.
    pub of_new: f32,
    /// Whether the result is -1, 0 or 1 (0 or 1).
    pub sign: u32,
    /// What the random numbers are for: the number of [`crate::quant::RngUse::M`].
    pub usage: u32,
}

/// Constants of [`super::ops::Update::adam_direction`], laid out for a kernel's argument (`DirectionArgs` in
/// `backend/cuda/kernels/adam.h`).
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, Immutable)]
#[repr(C)]
pub struct DirectionArgs {
    /// Seed of the run.
    pub seed: u64,
    /// Step, for the random numbers.
    pub number: u32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// `1 - beta1`.
    pub one_minus_beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// `1 - beta2`.
    pub one_minus_beta2: f32,
    /// What the result is multiplied by.
    pub factor: f32,
    /// What the root of the second moment is multiplied by.
    pub root: f32,
    /// Added to the divisor.
    pub eps: f32,
}

/// Arguments of [`super::ops::Factors::divide_by_root`], laid out for a kernel's argument (`DivisorArgs` in
/// `backend/cuda/kernels/factors.cu`).
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, Immutable)]
#[repr(C)]
pub struct DivisorArgs {
    /// Rows of the matrix.
    pub rows: u32,
    /// Columns of the matrix.
    pub cols: u32,
    /// Rows that share a second moment.
    pub run: u32,
    /// What the root of the second moment is multiplied by.
    pub root: f32,
    /// The smallest second moment whose root is taken.
    pub floor: f32,
    /// Added to the divisor.
    pub eps: f32,
}

/// Arguments of [`super::ops::Factors::relative_step`], laid out for a kernel's argument (`RelativeStepArgs` in
/// `backend/cuda/kernels/factors.cu`). With the root mean squares of weight and direction the factor is
/// `rate max(least, rms(w)) / max(1, rms(d) / threshold)`.
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, Immutable)]
#[repr(C)]
pub struct RelativeStepArgs {
    /// Elements of the weight.
    pub count: f32,
    /// The least root mean square that a weight counts as.
    pub least: f32,
    /// The relative step.
    pub rate: f32,
    /// The root mean square beyond which a direction is scaled down.
    pub threshold: f32,
}

/// Along what a matrix is normalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Each row by its own root mean square.
    Rows,
    /// Each column by its own root mean square.
    Cols,
}
