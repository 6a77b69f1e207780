//! Rows of an embedding matrix by token.

use super::conformance::{Case, MAX, stored};
use super::reference::wide;
use crate::backend::{Backend, Weight};
use crate::memory::Span;
use crate::quant::GroupedShape;

/// The lookup and its gradient.
pub trait Embedding {
    /// `out[t] = table[tokens[t]]`; `tokens` is u32 `[T]`, `table` is `[V, I]`, `out` is activations `[T, I]`. A token
    /// that is not below V panics, or on a device gives a row of NaN.
    fn embedding(&mut self, tokens: Span, table: &Weight, out: Span);

    /// `grad[tokens[t]] += dout[t]` in the order of t; `dout` is activations `[T, features]`, `grad` float32
    /// `[V, features]`. A token that is not below V panics, or on a device is left out.
    fn embedding_grad(&mut self, tokens: Span, dout: Span, grad: Span, features: usize);
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for format in stored() {
        let (vocab, width, tokens) = (37, 65, 50);
        let mut case = Case::new(open, 7);
        let (table, planes) = case.weight(GroupedShape::new(vocab, width, 64), format);
        let indices = case.indices(tokens, vocab as u32);
        let (dout, old) = (case.numbers(tokens * width), case.numbers(vocab * width));
        let (tokens_at, dout_at) = (case.add(&indices), case.activations(&dout, width));
        let (out, grad) = (case.room_of_rows(tokens, width), case.add(&old));
        case.run(MAX, |backend| {
            backend.embedding(tokens_at, &table, out);
            backend.embedding_grad(tokens_at, dout_at, grad, width);
        });
        let (values, mut sums) = (planes.values(), wide(&old));
        let rows = indices.iter().flat_map(|&t| values[t as usize * width..][..width].to_vec());
        case.near_rows(out, width, &rows.collect::<Vec<_>>(), "rows of an embedding");
        for (i, &d) in dout.iter().enumerate() {
            sums[indices[i / width] as usize * width + i % width] += f64::from(d);
        }
        case.near_floats(grad, &sums, "the gradient of an embedding");
    }
}
