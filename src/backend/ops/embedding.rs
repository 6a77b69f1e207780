//! Rows of an embedding matrix by token.

use crate::backend::Weight;
use crate::memory::Span;

/// The lookup and its gradient.
pub trait Embedding {
    /// `out[t] = table[tokens[t]]`; `tokens` is u32 `[T]`, `table` is `[V, I]`, `out` is activations `[T, I]`. A token
    /// that is not below V panics, or on a device gives a row of NaN.
    fn embedding(&mut self, tokens: Span, table: &Weight, out: Span);

    /// `grad[tokens[t]] += dout[t]` in the order of t; `dout` is activations `[T, features]`, `grad` float32
    /// `[V, features]`. A token that is not below V panics, or on a device is left out.
    fn embedding_grad(&mut self, tokens: Span, dout: Span, grad: Span, features: usize);
}
