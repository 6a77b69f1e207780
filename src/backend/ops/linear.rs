//! Products with a weight.

use super::Accumulate;
use super::conformance::{Case, MAX, simulated, stored};
use super::reference::wide;
use crate::backend::{Backend, MaxShapes, Weight};
use crate::memory::Span;
use crate::quant::{GroupedShape, WeightFormat};
use serde::{Deserialize, Serialize};

/// In which arithmetic the forward products with weights that are codes are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compute {
    /// Floats: codes become floats, and activations stay as they are.
    #[default]
    F32,
    /// Integers: codes stay as they are, and activations are rounded to eight bits ([`Linear::linear_int8`]).
    Int8,
}

/// A linear layer and its gradients.
pub trait Linear {
    /// `y[T, O] = x[T, I] w[O, I]^T`.
    fn linear(&mut self, x: Span, w: &Weight, y: Span, accumulate: Accumulate);

    /// The same added to `onto[T, O]`, which stays as it is: `y = onto + x w^T`.
    fn linear_onto(&mut self, x: Span, w: &Weight, onto: Span, y: Span);

    /// Several products of one input, each as [`Linear::linear`] sets it: a device that
    /// [joins products](crate::backend::DeviceInfo::joins_products) of one shape starts them at once.
    fn linear_joined(&mut self, x: Span, products: &[(&Weight, Span)]) {
        products.iter().for_each(|&(w, y)| self.linear(x, w, y, Accumulate::No));
    }

    /// The same with each row of `x` rounded to eight bits in groups as long as those of `w`, if `w` is stored as codes; else
    /// it is [`Linear::linear`]. An element becomes `s round(x k)`, halves to the even neighbour, with `s = most / 127` and
    /// `k = 127 / most` of the group's largest magnitude; `k` is 0 where that quotient is not finite, and `s` is NaN in a group
    /// with what is not finite. A group's products with codes are summed in integers, which no rounding enters.
    ///
    /// Only a device whose [`check_compute`](crate::backend::DeviceInfo::check_compute) allows [`Compute::Int8`] has it, and
    /// workspace that was planned for it.
    ///
    /// # Panics
    /// On other devices.
    fn linear_int8(&mut self, x: Span, w: &Weight, y: Span, accumulate: Accumulate);

    /// `dx[T, I] = dy[T, O] w[O, I]`.
    fn linear_grad_input(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate);

    /// `grad[O, I] = dy[T, O]^T x[T, I]`, float32; `rows` is O, `cols` I.
    fn linear_grad_weight(&mut self, dy: Span, x: Span, grad: Span, rows: usize, cols: usize, accumulate: Accumulate);

    /// The same for several weights of one shape and one input: pairs of `dy` and `grad`.
    fn linear_grad_weight_joined(
        &mut self,
        x: Span,
        grads: &[(Span, Span)],
        (rows, cols): (usize, usize),
        accumulate: Accumulate,
    ) {
        grads.iter().for_each(|&(dy, grad)| self.linear_grad_weight(dy, x, grad, rows, cols, accumulate));
    }
}

/// `x[T, I] w[O, I]^T`.
pub fn linear(x: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    multiply(x, &transpose(w, outputs, inputs), (x.len() / inputs, inputs, outputs))
}

/// Rows of activations as [`Linear::linear_int8`] rounds them, in groups of `group`.
pub fn round_int8(x: &[f32], inputs: usize, group: usize) -> Vec<f64> {
    let groups = x.chunks(inputs).flat_map(|row| row.chunks(group));
    let round = |group: &[f32]| {
        let most = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let finite = group.iter().all(|x| x.is_finite());
        let scale = if finite { most / 127.0 } else { f32::NAN };
        let steps = if finite && (127.0 / most).is_finite() { 127.0 / most } else { 0.0 };
        let code = |x: &f32| (x * steps).round_ties_even();
        group.iter().map(|x| f64::from(scale) * f64::from(code(x))).collect::<Vec<_>>()
    };
    groups.flat_map(round).collect()
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
    conformance_int8(open);
}

/// Codes of each kind, groups of each size, rows that end within a group; products beside the codes' values and the inputs
/// that [`round_int8`] makes, where the device has them.
fn conformance_int8(open: &dyn Fn() -> Box<dyn Backend>) {
    if open().check_compute(Compute::Int8).is_err() {
        return;
    }
    for format in stored() {
        for (tokens, outputs, inputs, group) in
            [(1, 9, 40, 32), (3, 33, 290, 64), (5, 33, 31, 32), (40, 67, 320, 128), (13, 8, 260, 256)]
        {
            let shape = GroupedShape::new(outputs, inputs, group);
            let mut case = Case::new(open, tokens as u64);
            let (w, planes) = case.weight(shape, format);
            let mut x = case.numbers(tokens * inputs);
            // A group of zeros, and one of a large number and small ones.
            x[..group.min(inputs)].fill(0.0);
            x[inputs * tokens - 1] = 300.0;
            let old = case.numbers(tokens * outputs);
            let (x_at, y, added) =
                (case.activations(&x, inputs), case.room_of_rows(tokens, outputs), case.activations(&old, outputs));
            case.run(MaxShapes { compute: Compute::Int8, ..MAX }, |backend| {
                backend.linear_int8(x_at, &w, y, Accumulate::No);
                backend.linear_int8(x_at, &w, added, Accumulate::Yes);
            });
            let is_codes = format.codec().integers().is_some();
            let rounded = if is_codes { round_int8(&x, inputs, group) } else { wide(&x) };
            let expected = linear(&rounded, &planes.values(), inputs);
            let what = format!(
                "a product in integers, {format} of {outputs} x {inputs} in groups of {group}, {tokens} tokens"
            );
            case.near_rows(y, outputs, &expected, &what);
            let sum: Vec<f64> = expected.iter().zip(&old).map(|(a, &b)| a + f64::from(b)).collect();
            case.near_rows(added, outputs, &sum, &format!("{what}, added"));
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
    // Two weights and one input; one behind the other, as devices want what they join.
    let (other, other_planes) = case.weight(shape, format);
    let other_dy = case.numbers(tokens * rows);
    let dys = [&dy, &other_dy].map(|dy| case.activations(dy, rows));
    let joined = [(); 2].map(|()| case.room_of_rows(tokens, rows));
    let grads = [(); 2].map(|()| case.add(&old_grad));
    let (onto, sum_y) = (case.activations(&old_y, rows), case.room_of_rows(tokens, rows));
    case.run(MAX, |backend| {
        backend.linear(x_at, &w, y, Accumulate::No);
        backend.linear(x_at, &w, added_y, Accumulate::Yes);
        backend.linear_grad_input(dy_at, &w, dx, Accumulate::No);
        backend.linear_grad_weight(dy_at, x_at, grad, rows, cols, Accumulate::No);
        backend.linear_grad_weight(dy_at, x_at, added_grad, rows, cols, Accumulate::Yes);
        backend.linear_onto(x_at, &w, onto, sum_y);
        backend.linear_joined(x_at, &[(&w, joined[0]), (&other, joined[1])]);
        let pairs = [(dys[0], grads[0]), (dys[1], grads[1])];
        backend.linear_grad_weight_joined(x_at, &pairs, (rows, cols), Accumulate::Yes);
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
    case.near_rows(sum_y, rows, &sum(&expected_y, &old_y), &format!("a product onto another matrix, {what}"));
    case.near_rows(onto, rows, &wide(&old_y), &format!("what a product was added to, {what}"));
    let both = [(expected_y, expected_grad), {
        let grad = linear_grad_weight(&wide(&other_dy), &x, rows);
        (linear(&x, &other_planes.values(), cols), grad)
    }];
    for (i, (y, grad)) in both.iter().enumerate() {
        case.near_rows(joined[i], rows, y, &format!("joined product {i}, {what}"));
        case.near_floats(grads[i], &sum(grad, &old_grad), &format!("joined gradient {i} of a weight, {what}"));
    }
}
