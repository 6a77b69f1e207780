//! The gradient of a linear layer's weight: one product, its sum over all tokens kept in float32.

use super::{Form, Gpu, Matrix, Output, Product};
use crate::backend::Store;
use crate::memory::Span;

/// `grad[O, I] = dy[T, O]^T x[T, I]`, float32; see [`crate::backend::Backend::linear_grad_weight`].
///
/// # Panics
/// If lengths do not fit.
pub fn linear_grad_weight(
    gpu: &mut Gpu,
    dy: Span,
    x: Span,
    grad: Span,
    (outputs, inputs): (usize, usize),
    store: Store,
) {
    let tokens = dy.bytes / (2 * outputs);
    let lengths = [2 * tokens * outputs, 2 * tokens * inputs, 4 * outputs * inputs];
    assert_eq!([dy.bytes, x.bytes, grad.bytes], lengths, "whole rows, as many of both, and a gradient's elements");
    assert!(tokens > 0, "a gradient of no token");
    gpu.multiply(&Product {
        form: Form::Tn,
        m: outputs,
        n: inputs,
        k: tokens,
        a: Matrix { address: gpu.address(dy), pitch: outputs },
        b: Matrix { address: gpu.address(x), pitch: inputs },
        out: Matrix { address: gpu.address(grad), pitch: inputs },
        output: Output::F32,
        store,
    });
}
