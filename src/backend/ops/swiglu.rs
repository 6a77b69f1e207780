//! SwiGLU.

use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;

/// SwiGLU and its gradient, element by element over activations of any shape.
pub trait SwiGlu {
    /// `out = silu(gate) up`.
    fn swiglu(&mut self, gate: Span, up: Span, out: Span);

    /// Replaces `gate` and `up` by their gradients for `dout`.
    fn swiglu_grad(&mut self, gate: Span, up: Span, dout: Span);
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `silu(gate) up`.
pub fn swiglu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect()
}

/// Gradients of `gate` and `up`.
pub fn swiglu_grad(gate: &[f64], up: &[f64], dout: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let one = |((&g, &u), &d): ((&f64, &f64), &f64)| {
        let s = sigmoid(g);
        (d * u * s * (1.0 + g * (1.0 - s)), d * g * s)
    };
    gate.iter().zip(up).zip(dout).map(one).unzip()
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (tokens, width) in [(1, 1), (7, 40), (9, 257)] {
        let mut case = Case::new(open, width as u64);
        let [gate, up, dout] = [(); 3].map(|()| case.numbers(tokens * width));
        let [gate_at, up_at, dout_at] = [&gate, &up, &dout].map(|values| case.activations(values, width));
        let out = case.room_of_rows(tokens, width);
        case.run(MAX, |backend| {
            backend.swiglu(gate_at, up_at, out);
            backend.swiglu_grad(gate_at, up_at, dout_at);
        });
        let [gate, up, dout] = [gate, up, dout].map(|values| wide(&values));
        let (dgate, dup) = swiglu_grad(&gate, &up, &dout);
        case.near_rows(out, width, &swiglu(&gate, &up), "SwiGLU");
        case.near_rows(gate_at, width, &dgate, "the gradient of a gate");
        case.near_rows(up_at, width, &dup, "the gradient of what a gate scales");
    }
}
