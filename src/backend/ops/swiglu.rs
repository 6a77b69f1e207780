//! SwiGLU.

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
