//! Products with a weight.

use super::Accumulate;
use super::conformance::{Case, MAX, simulated, stored};
use super::reference::wide;
use crate::backend::{Backend, Weight};
use crate::memory::Span;
use crate::quant::{GroupedShape, WeightFormat};

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

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for format in stored().chain(simulated()) {
        for (tokens, outputs, inputs) in [(1, 9, 40), (5, 33, 31), (40, 24, 65)] {
            conformance_of(open, tokens, GroupedShape::new(outputs, inputs, 32), format);
        }
    }
}

fn conformance_of(open: &dyn Fn() -> Box<dyn Backend>, tokens: usize, shape: GroupedShape, format: WeightFormat) {
    let (rows, cols) = (shape.rows, shape.cols);
    let mut case = Case::new(open, tokens as u64);
    let (w, planes) = case.weight(shape, format);
    let (x, dy) = (case.numbers(tokens * cols), case.numbers(tokens * rows));
    let (old_y, old_grad) = (case.numbers(tokens * rows), case.numbers(rows * cols));
    let (x_at, dy_at) = (case.activations(&x, cols), case.activations(&dy, rows));
    let (y, dx, grad) = (case.room_of_rows(tokens, rows), case.room_of_rows(tokens, cols), case.room(rows * cols));
    let (added_y, added_grad) = (case.activations(&old_y, rows), case.add(&old_grad));
    case.run(MAX, |backend| {
        backend.linear(x_at, &w, y, Accumulate::No);
        backend.linear(x_at, &w, added_y, Accumulate::Yes);
        backend.linear_grad_input(dy_at, &w, dx, Accumulate::No);
        backend.linear_grad_weight(dy_at, x_at, grad, rows, cols, Accumulate::No);
        backend.linear_grad_weight(dy_at, x_at, added_grad, rows, cols, Accumulate::Yes);
    });
    let (x, dy, values) = (wide(&x), wide(&dy), planes.values());
    let (expected_y, expected_grad) = (linear(&x, &values, cols), linear_grad_weight(&dy, &x, rows));
    let sum = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a + f64::from(b)).collect::<Vec<_>>();
    let what = format!("{format} of {rows} x {cols}, {tokens} tokens");
    case.near_rows(y, rows, &expected_y, &format!("a product, {what}"));
    case.near_rows(added_y, rows, &sum(&expected_y, &old_y), &format!("a product, added, {what}"));
    case.near_rows(dx, cols, &linear_grad_input(&dy, &values, cols), &format!("the gradient of an input, {what}"));
    case.near_floats(grad, &expected_grad, &format!("the gradient of a weight, {what}"));
    case.near_floats(added_grad, &sum(&expected_grad, &old_grad), &format!("the gradient of a weight, added, {what}"));
}
