//! The gradient of a weight: one product, nothing is dequantized.

use super::pitch;
use crate::backend::Store;
use crate::backend::cuda::runtime::{Form, Gpu, Matrix, Output, Product};
use crate::memory::Span;

/// See [`crate::backend::Backend::linear_grad_weight`].
pub(crate) fn linear_grad_weight(gpu: &mut Gpu, dy: Span, x: Span, grad: Span, rows: usize, cols: usize, store: Store) {
    let tokens = dy.bytes / (2 * pitch(rows));
    assert!(dy.bytes == 2 * tokens * pitch(rows) && x.bytes == 2 * tokens * pitch(cols), "whole rows of one batch");
    assert_eq!(grad.bytes, 4 * rows * cols, "the gradient of a weight of {rows} x {cols}");
    gpu.multiply(&Product {
        form: Form::Tn,
        m: rows,
        n: cols,
        k: tokens,
        a: Matrix { address: gpu.address(dy), pitch: pitch(rows) },
        b: Matrix { address: gpu.address(x), pitch: pitch(cols) },
        out: Matrix { address: gpu.address(grad), pitch: cols },
        output: Output::F32,
        accumulate: store == Store::Accumulate,
    });
}
