//! The step of Adam's family on a weight in codes and residue, or in bfloat16, with moments of four bits, the first also of eight,
//! in registers: the same bytes as the fused pass of the operations, which is written for every storage and every step.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod moments;
#[cfg(target_arch = "x86_64")]
mod registers;
#[cfg(target_arch = "x86_64")]
mod weight;

use super::isa::{Isa, Level};
use crate::backend::adam::AdamParams;
use crate::quant::QuantGrid;

/// Some rows of a parameter, without padding: a row is whole groups.
pub(crate) struct PackedRows<'a> {
    /// Columns of a row.
    pub cols: usize,
    /// Elements of a group.
    pub group: usize,
    /// Number of the first element in the whole tensor.
    pub first: u64,
    /// The gradient.
    pub grad: &'a [f32],
    /// The weight.
    pub weight: PackedWeight<'a>,
    /// First moments.
    pub m: PackedFirstMoments<'a>,
    /// Their scales, as bits of bf16.
    pub m_scales: &'a mut [u16],
    /// Second moments.
    pub v: PackedSecondMoments<'a>,
}

/// A weight that a step in registers knows.
pub(crate) enum PackedWeight<'a> {
    /// Stored integers of [`QuantGrid::INT4`], symmetric.
    Codes {
        grid: &'a QuantGrid,
        /// High nibbles of the stored integers.
        codes: &'a mut [u8],
        /// Low ones.
        residue: &'a mut [u8],
        /// Scales of half precision.
        scales: &'a mut [u8],
    },
    /// Bits of bfloat16, rounded stochastically.
    Bf16(&'a mut [u16]),
}

/// First moments that a step in registers knows.
pub(crate) enum PackedFirstMoments<'a> {
    /// Those of [`crate::quant::MomentCodec::M4`].
    Nibbles(&'a mut [u8]),
    /// Those of [`crate::quant::MomentCodec::M8`].
    Bytes(&'a mut [u8]),
}

/// Second moments of four bits, or those that elements share.
pub(crate) enum PackedSecondMoments<'a> {
    /// [`crate::quant::MomentCodec::V4`], and their scales.
    Own(&'a mut [u8], &'a mut [u16]),
    /// A number for each row, and a factor for each column or none.
    Shared(&'a [f32], &'a [f32]),
}

/// Whether [`update`] knows groups of this size.
pub(crate) fn is_supported(isa: Isa, group: usize) -> bool {
    let registers = match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => true,
        _ => false,
    };
    registers && matches!(group, 64 | 128)
}

/// Whether a step does nothing but move: no moment is reset, no element is left out or told by a threshold.
pub(crate) fn is_simple(params: &AdamParams) -> bool {
    let args = &params.args;
    let resets = (args.reset_before, args.reset_after) != (0, 0);
    !params.frozen && !resets && args.density == 1.0 && args.spike_threshold == f32::INFINITY
}

/// One step of all groups; gives the number that were rescaled.
///
/// # Panics
/// If the instruction set or the size of the groups is not [supported](is_supported), the step is not [simple](is_simple), or a
/// plane has another length than the gradient asks for.
pub(crate) fn update(isa: Isa, rows: &mut PackedRows, params: &AdamParams, id: u32) -> u64 {
    assert!(is_supported(isa, rows.group) && is_simple(params), "a step that is not made for registers");
    rows.check();
    match isa.level() {
        // SAFETY: an `Isa` of this level exists only after its features were detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::update(rows, params, id) },
        _ => unreachable!("no other instruction set is supported"),
    }
}

impl PackedRows<'_> {
    /// Where a group lies in planes of bytes.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn elements(&self, group: usize) -> std::ops::Range<usize> {
        group * self.group..(group + 1) * self.group
    }

    /// Where a group lies in planes of nibbles.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn bytes(&self, group: usize) -> std::ops::Range<usize> {
        group * self.group / 2..(group + 1) * self.group / 2
    }

    fn check(&self) {
        let (count, groups) = (self.grad.len(), self.grad.len() / self.group);
        assert!(self.cols.is_multiple_of(self.group) && count.is_multiple_of(self.cols), "whole rows of whole groups");
        let m = match &self.m {
            PackedFirstMoments::Nibbles(codes) => 2 * codes.len(),
            PackedFirstMoments::Bytes(codes) => codes.len(),
        };
        assert_eq!((m, self.m_scales.len()), (count, groups), "first moments");
        match &self.weight {
            PackedWeight::Codes { codes, residue, scales, .. } => {
                assert_eq!([codes.len(), residue.len()], [count / 2; 2], "bytes of nibbles");
                assert_eq!(scales.len(), 2 * groups, "scales");
            }
            PackedWeight::Bf16(data) => assert_eq!(data.len(), count, "numbers"),
        }
        match &self.v {
            PackedSecondMoments::Own(codes, scales) => {
                assert_eq!((codes.len(), scales.len()), (count / 2, groups), "second moments");
            }
            PackedSecondMoments::Shared(numbers, factors) => {
                assert_eq!(numbers.len(), count / self.cols, "second moments of rows");
                assert!(factors.is_empty() || factors.len() == self.cols, "factors of columns");
            }
        }
    }
}
