//! Biases of linear layers.

use super::Accumulate;
use crate::memory::Span;

/// A bias and its gradient.
pub trait Bias {
    /// `x[t] += bias`, row by row; `x` is activations `[T, width]`, `bias` float32 `[width]`.
    fn add_bias(&mut self, x: Span, bias: Span, width: usize);

    /// `grad = sum over t of dy[t]`; `dy` is activations `[T, width]`, `grad` float32 `[width]`.
    fn bias_grad(&mut self, dy: Span, grad: Span, width: usize, accumulate: Accumulate);
}
