//! Activations that are kept in four bits until the backward pass.

use super::conformance::{Case, MAX};
use crate::backend::Backend;
use crate::memory::Span;
use crate::quant::{RngKey, RngUse, bf16_ceil, bf16_to_f32};

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

/// What is left of rows after they were packed: each element by the formula of the trait, from the random number that is
/// its own.
pub fn packed_values(x: &[f32], features: usize, first_row: usize, key: &RngKey) -> Vec<f64> {
    let padded = features.next_multiple_of(PACK_GROUP);
    let one = |(i, &value): (usize, &f32)| {
        let (row, col) = (i / features, i % features);
        let from = i - col % PACK_GROUP;
        let group = &x[from..(from + PACK_GROUP).min((row + 1) * features)];
        let most = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = bf16_to_f32(bf16_ceil(most / 7.0));
        let u = key.uniform_at(((first_row + row) * padded + col) as u64);
        f64::from(scale * (value * (1.0 / scale) + u).floor().clamp(-7.0, 7.0))
    };
    x.iter().enumerate().map(one).collect()
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    let key = RngKey { seed: 7, step: 3, tensor: 2, usage: RngUse::ActivationPack };
    for (tokens, features, first_row) in [(1, 1, 0), (3, 31, 5), (9, 65, 2)] {
        let mut case = Case::new(open, features as u64);
        let x = case.numbers(tokens * features);
        let (codes, scales) = packed_bytes(tokens, features);
        let (x_at, out) = (case.activations(&x, features), case.room_of_rows(tokens, features));
        let (codes, scales) = (case.bytes(vec![0; codes]), case.bytes(vec![0; scales]));
        case.run(MAX, |backend| {
            backend.pack_rows(x_at, codes, scales, features, first_row, &key);
            backend.unpack_rows(codes, scales, out, features);
        });
        case.near_rows(out, features, &packed_values(&x, features, first_row, &key), "packed activations");
    }
}
