//! The operations, one file each: checks of the operands, and launches of the kernels in the file of the same name.
//!
//! Kernels trust their parameters, so each launch is preceded by the checks that prove its accesses to stay inside the
//! operands whatever their contents: sizes as 32-bit numbers ([`dim`]), products that do not wrap ([`product`]), and
//! spans of exactly the bytes that a shape has.

pub(crate) mod activation_pack;
mod activation_quant;
pub(crate) mod activation_scaling;
pub(crate) mod adam;
mod adam_operands;
pub(crate) mod adam_statistics;
pub(crate) mod attention;
pub(crate) mod attention_grad;
mod bias;
pub(crate) mod bytes;
mod embedding;
mod factored;
mod factors;
mod gaussian;
mod gelu;
mod joined;
pub(crate) mod linear;
pub(crate) mod linear_grad_int8;
mod loss;
mod magnitude;
mod matmul;
pub(crate) mod norm;
mod normalize;
pub(crate) mod prefix;
mod rope;
pub(crate) mod scaling;
mod state;
pub(crate) mod sums;
mod swiglu;
mod update;
mod weights;

use crate::memory::Span;
use crate::quant::RngUse;

// The numbers that `RngUse` in kernels/rng.h has.
const _: () = {
    assert!(RngUse::Weight as u32 == 0 && RngUse::M as u32 == 1 && RngUse::V as u32 == 2);
    assert!(RngUse::Mask as u32 == 4 && RngUse::ActivationPack as u32 == 6);
    assert!(RngUse::Dropout as u32 == 9 && RngUse::GradInput as u32 == 11 && RngUse::GradWeight as u32 == 12);
};

/// Rows start at multiples of sixteen bytes: tensor cores are fed, and rows are read, sixteen bytes at a time.
pub(crate) const ROW_MULTIPLE: usize = 8;

/// Elements from one row of activations to the next.
pub(crate) fn pitch(features: usize) -> usize {
    features.next_multiple_of(ROW_MULTIPLE)
}

/// A size as kernels take it.
///
/// # Panics
/// If it has more than 32 bits.
fn dim(n: usize) -> u32 {
    u32::try_from(n).unwrap_or_else(|_| panic!("{n} rows, columns or blocks: kernels count in 32 bits"))
}

/// # Panics
/// If the product exceeds `usize::MAX`.
fn product<const N: usize>(factors: [usize; N]) -> usize {
    let all = factors.iter().try_fold(1usize, |all, &factor| all.checked_mul(factor));
    all.unwrap_or_else(|| panic!("{factors:?}: a shape of more than usize::MAX elements"))
}

/// How many rows of `width` activations are in a span.
///
/// # Panics
/// If they are not whole, or have no elements.
fn rows_of(x: Span, width: usize) -> usize {
    let row = 2 * pitch(dim(width) as usize);
    assert!(row > 0 && x.bytes.is_multiple_of(row), "whole rows of {width} elements in {} bytes", x.bytes);
    x.bytes / row
}
