//! Activations that are kept in four bits until the backward pass.

use crate::memory::Span;
use crate::quant::RngKey;

/// Elements of a group of [`ActivationPack::pack_rows`].
pub const PACK_GROUP: usize = 64;

/// Bytes of the codes and of the scales of `rows` packed rows.
pub fn packed_bytes(rows: usize, features: usize) -> (usize, usize) {
    let groups = rows * features.div_ceil(PACK_GROUP);
    (groups * PACK_GROUP / 2, 2 * groups)
}

/// Packing of rows, and its inverse up to rounding.
pub trait ActivationPack {
    /// Packs rows of `features` elements in groups of [`PACK_GROUP`] (the last of a row may be short, and is padded
    /// with zeros): per group a bfloat16 scale s = absmax / 7, rounded up, and per element the nibble
    /// `8 + clamp(floor(x / s + u), -7, 7)`, in the order of the weights' nibbles. `u` is the random number of `key`
    /// for the element of the padded rows, counted from row `first_row` on. `codes` and `scales` have the bytes of
    /// [`packed_bytes`].
    fn pack_rows(&mut self, x: Span, codes: Span, scales: Span, features: usize, first_row: usize, key: &RngKey);

    /// `x = s (nibble - 8)`: what [`ActivationPack::pack_rows`] left of the rows.
    fn unpack_rows(&mut self, codes: Span, scales: Span, x: Span, features: usize);
}
