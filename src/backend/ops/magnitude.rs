//! The norms of a weight's rows with a low-rank product added, and rows brought to other norms (DoRA).

use super::Accumulate;
use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;

/// DoRA (arXiv 2402.09353): `g = m / n` for each output, where n is the norm of a row of `W + f B A` and m is trained. Of a
/// row of zeros g is 0.
pub trait Magnitude {
    /// `norms[o] = sqrt(squares[o] + f sum over k of b[k, o] r[k, o])`, not below 0 under the root. `b` and `r` are activations
    /// `[R, O]`, `squares` and `norms` float32 `[O]`. With `squares = |W[o]|^2`, b the columns of B and
    /// `r = 2 A W^T + f A A^T B^T` they are the norms of the rows of `W + f B A`, which is never formed.
    fn row_norms(&mut self, b: Span, r: Span, squares: Span, factor: f32, norms: Span);

    /// `y[t, o] += (by g[o] + less) x[t, o]`; `x` and `y` are activations `[T, O]`, `magnitude` and `norms` float32 `[O]`.
    fn add_columns(&mut self, x: Span, y: Span, magnitude: Span, norms: Span, factors: [f32; 2]);

    /// `grad[o] = sum over t of x[t, o] dy[t, o] / norms[o]`, the gradient of m for the activations `x` before g; of a norm of 0
    /// it is 0. Sums have the order of t, so that with [`Accumulate::Yes`] the parts of a batch give the bits of the whole on a
    /// CPU.
    fn magnitude_grad(&mut self, x: Span, dy: Span, norms: Span, grad: Span, accumulate: Accumulate);
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (tokens, width, rank) in [(1, 1, 1), (7, 40, 3), (70, 33, 16)] {
        let mut case = Case::new(open, width as u64);
        let [x, dy] = [(); 2].map(|()| case.numbers(tokens * width));
        let [b, r] = [(); 2].map(|()| case.numbers(rank * width));
        let [mut squares, mut norms, magnitude, old] = [(); 4].map(|()| case.numbers(width));
        squares.iter_mut().for_each(|x| *x += 20.0);
        norms.iter_mut().for_each(|x| *x += 2.0);
        // A row of zeros.
        norms[0] = 0.0;
        let [x_at, dy_at, y] = [&x, &dy, &dy].map(|values| case.activations(values, width));
        let [b_at, r_at] = [&b, &r].map(|values| case.activations(values, width));
        let [squares_at, norms_at, magnitude_at, added] =
            [&squares, &norms, &magnitude, &old].map(|values| case.add(values));
        let [found, grad] = [(); 2].map(|()| case.room(width));
        case.run(MAX, |backend| {
            backend.row_norms(b_at, r_at, squares_at, 0.5, found);
            backend.add_columns(x_at, y, magnitude_at, norms_at, [0.5, -0.25]);
            backend.magnitude_grad(x_at, dy_at, norms_at, grad, Accumulate::No);
            backend.magnitude_grad(x_at, dy_at, norms_at, added, Accumulate::Yes);
        });
        let [x, dy, b, r] = [x, dy, b, r].map(|values| wide(&values));
        let [squares, norms, magnitude, old] = [squares, norms, magnitude, old].map(|values| wide(&values));
        let product = |o: usize| (0..rank).map(|k| b[k * width + o] * r[k * width + o]).sum::<f64>();
        let expected: Vec<f64> = (0..width).map(|o| (squares[o] + 0.5 * product(o)).max(0.0).sqrt()).collect();
        case.near_floats(found, &expected, "norms of rows");
        let over = |x: f64, o: usize| if norms[o] > 0.0 { x / norms[o] } else { 0.0 };
        let by = |i: usize| 0.5 * over(magnitude[i % width], i % width) - 0.25;
        let sums: Vec<f64> = (0..x.len()).map(|i| dy[i] + by(i) * x[i]).collect();
        case.near_rows(y, width, &sums, "rows brought to other norms");
        let sum = |o: usize| (o..x.len()).step_by(width).map(|i| over(x[i] * dy[i], o)).sum::<f64>();
        let grads: Vec<f64> = (0..width).map(sum).collect();
        case.near_floats(grad, &grads, "the gradient of a magnitude");
        let both: Vec<f64> = grads.iter().zip(old).map(|(grad, old)| grad + old).collect();
        case.near_floats(added, &both, "the gradient of a magnitude, added");
    }
}
