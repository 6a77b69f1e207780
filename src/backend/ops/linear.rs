//! Products with a weight.

use super::Accumulate;
use crate::backend::Weight;
use crate::memory::Span;

/// A linear layer and its gradients.
pub trait Linear {
    /// `y[T, O] = x[T, I] w[O, I]^T`.
    fn linear(&mut self, x: Span, w: &Weight, y: Span, accumulate: Accumulate);

    /// `dx[T, I] = dy[T, O] w[O, I]`.
    fn linear_grad_input(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate);

    /// `grad[O, I] = dy[T, O]^T x[T, I]`, float32; `rows` is O, `cols` I.
    fn linear_grad_weight(&mut self, dy: Span, x: Span, grad: Span, rows: usize, cols: usize, accumulate: Accumulate);
}

/// `x[T, I] w[O, I]^T`.
pub fn linear(x: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    multiply(x, &transpose(w, outputs, inputs), (x.len() / inputs, inputs, outputs))
}

/// `dy[T, O] w[O, I]`.
pub fn linear_grad_input(dy: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    multiply(dy, w, (dy.len() / outputs, outputs, inputs))
}

/// `dy[T, O]^T x[T, I]`.
pub fn linear_grad_weight(dy: &[f64], x: &[f64], outputs: usize) -> Vec<f64> {
    let tokens = dy.len() / outputs;
    multiply(&transpose(dy, tokens, outputs), x, (outputs, tokens, x.len() / tokens))
}

/// `a[m, k] b[k, n]`.
fn multiply(a: &[f64], b: &[f64], (m, k, n): (usize, usize, usize)) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for l in 0..k {
            for j in 0..n {
                out[i * n + j] += a[i * k + l] * b[l * n + j];
            }
        }
    }
    out
}

fn transpose(a: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..rows * cols).map(|i| a[i % rows * cols + i / rows]).collect()
}
