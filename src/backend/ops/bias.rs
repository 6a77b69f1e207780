//! Biases of linear layers.

use super::Accumulate;
use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;

/// A bias and its gradient.
pub trait Bias {
    /// `x[t] += bias`, row by row; `x` is activations `[T, width]`, `bias` float32 `[width]`.
    fn add_bias(&mut self, x: Span, bias: Span, width: usize);

    /// `grad = sum over t of dy[t]`; `dy` is activations `[T, width]`, `grad` float32 `[width]`.
    fn bias_grad(&mut self, dy: Span, grad: Span, width: usize, accumulate: Accumulate);
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (tokens, width) in [(1, 1), (7, 40), (70, 33)] {
        let mut case = Case::new(open, width as u64);
        let [x, dy] = [(); 2].map(|()| case.numbers(tokens * width));
        let [bias, old] = [(); 2].map(|()| case.numbers(width));
        let [x_at, dy_at] = [&x, &dy].map(|values| case.activations(values, width));
        let [bias_at, added] = [&bias, &old].map(|values| case.add(values));
        let grad = case.room(width);
        case.run(MAX, |backend| {
            backend.add_bias(x_at, bias_at, width);
            backend.bias_grad(dy_at, grad, width, Accumulate::No);
            backend.bias_grad(dy_at, added, width, Accumulate::Yes);
        });
        let sums = (0..width).map(|i| wide(&dy).iter().skip(i).step_by(width).sum()).collect::<Vec<f64>>();
        let moved = wide(&x).iter().enumerate().map(|(i, x)| x + f64::from(bias[i % width])).collect::<Vec<_>>();
        case.near_rows(x_at, width, &moved, "activations with a bias");
        case.near_floats(grad, &sums, "the gradient of a bias");
        let twice = sums.iter().zip(&old).map(|(sum, &old)| sum + f64::from(old)).collect::<Vec<_>>();
        case.near_floats(added, &twice, "the gradient of a bias, added");
    }
}
