//! GELU.

use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;
use std::f64::consts::{PI, SQRT_2};

/// The exact GELU (arXiv 1606.08415), `x (1 + erf(x / sqrt 2)) / 2`, and its gradient, element by element over activations of
/// any shape.
pub trait Gelu {
    /// `out = gelu(x)`.
    fn gelu(&mut self, x: Span, out: Span);

    /// `dout = dout gelu'(x)`.
    fn gelu_grad(&mut self, x: Span, dout: Span);
}

/// `gelu(x)`.
pub fn gelu(x: f64) -> f64 {
    x * cumulative(x)
}

/// The slope of [`gelu`].
pub fn gelu_slope(x: f64) -> f64 {
    cumulative(x) + x * (-x * x / 2.0).exp() / (2.0 * PI).sqrt()
}

/// The share of a standard normal distribution below `x`.
fn cumulative(x: f64) -> f64 {
    0.5 * (1.0 + statrs::function::erf::erf(x / SQRT_2))
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (tokens, width) in [(1, 1), (7, 5), (9, 257)] {
        let mut case = Case::new(open, width as u64);
        let [mut x, dout] = [(); 2].map(|()| case.numbers(tokens * width));
        // Into both tails; a power of two keeps the numbers exact.
        x.iter_mut().for_each(|x| *x *= 4.0);
        let [x_at, dout_at] = [&x, &dout].map(|values| case.activations(values, width));
        let out = case.room_of_rows(tokens, width);
        case.run(MAX, |backend| {
            backend.gelu(x_at, out);
            backend.gelu_grad(x_at, dout_at);
        });
        let (x, dout) = (wide(&x), wide(&dout));
        case.near_rows(out, width, &x.iter().map(|&x| gelu(x)).collect::<Vec<_>>(), "GELU");
        let slopes = x.iter().zip(&dout).map(|(&x, d)| d * gelu_slope(x)).collect::<Vec<_>>();
        case.near_rows(dout_at, width, &slopes, "the gradient of GELU");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_slope() {
        for x in [-5.0, -1.3, -0.2, 0.0, 0.7, 2.0, 6.0] {
            let slope = (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5;
            assert!((slope - gelu_slope(x)).abs() < 1e-9, "{x}: {slope}");
        }
        // PyTorch's gelu at 1.
        assert!((gelu(1.0) - 0.841_344_746_068_543).abs() < 1e-10);
    }
}
