//! RMSNorm.

use super::Accumulate;
use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;

/// Operands of [`Norm::rms_norm_grad`]; shapes as in [`Norm::rms_norm`].
#[derive(Clone, Copy, Debug)]
pub struct NormGradArgs {
    /// Input of the norm.
    pub x: Span,
    /// Gain of the norm.
    pub gain: Span,
    /// What the norm computed.
    pub inv_rms: Span,
    /// Gradient of the output.
    pub dout: Span,
    /// The gradient of the input is added to it.
    pub dx: Span,
    /// Receives the gain's gradient.
    pub dgain: Span,
    /// For `dgain`.
    pub accumulate: Accumulate,
}

/// RMSNorm of rows and its gradient.
pub trait Norm {
    /// `out = x / rms(x) gain`, row by row; `x` and `out` are activations `[T, width]`, `gain` is float32 `[width]`;
    /// `inv_rms`, float32 `[T]`, receives `1 / sqrt(mean(x^2) + eps)`.
    fn rms_norm(&mut self, x: Span, gain: Span, out: Span, inv_rms: Span, eps: f32);

    /// The gradient through the norm: with n = x / rms(x),
    /// `dx += (dout gain - n mean(dout gain n)) / rms(x)` and `dgain = sum over t of dout n`.
    fn rms_norm_grad(&mut self, args: &NormGradArgs);
}

/// The output and `1 / rms` of each row.
pub fn rms_norm(x: &[f64], gain: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let width = gain.len();
    let inverse = |row: &[f64]| 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / width as f64 + eps).sqrt();
    let inv_rms: Vec<f64> = x.chunks(width).map(inverse).collect();
    let out = x.iter().enumerate().map(|(i, x)| x * inv_rms[i / width] * gain[i % width]).collect();
    (out, inv_rms)
}

/// Gradients of `x` and `gain`.
pub fn rms_norm_grad(x: &[f64], gain: &[f64], inv_rms: &[f64], dout: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let width = gain.len();
    let (mut dx, mut dgain) = (vec![0.0; x.len()], vec![0.0; width]);
    for (t, &inv) in inv_rms.iter().enumerate() {
        let at = |i: usize| t * width + i;
        let mean = (0..width).map(|i| dout[at(i)] * gain[i] * x[at(i)] * inv).sum::<f64>() / width as f64;
        for i in 0..width {
            let n = x[at(i)] * inv;
            dx[at(i)] = inv * (dout[at(i)] * gain[i] - n * mean);
            dgain[i] += dout[at(i)] * n;
        }
    }
    (dx, dgain)
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (tokens, width) in [(1, 1), (5, 24), (33, 65)] {
        let mut case = Case::new(open, width as u64);
        let [x, dout, old] = [(); 3].map(|()| case.numbers(tokens * width));
        let (gain, old_gain) = (case.numbers(width), case.numbers(width));
        let [x_at, dout_at, dx] = [&x, &dout, &old].map(|values| case.activations(values, width));
        let [gain_at, dgain] = [&gain, &old_gain].map(|values| case.add(values));
        let (out, inv_rms) = (case.room_of_rows(tokens, width), case.room(tokens));
        case.run(MAX, |backend| {
            backend.rms_norm(x_at, gain_at, out, inv_rms, 1e-2);
            let (x, gain, dout, accumulate) = (x_at, gain_at, dout_at, Accumulate::Yes);
            backend.rms_norm_grad(&NormGradArgs { x, gain, inv_rms, dout, dx, dgain, accumulate });
        });
        let [x, gain, dout, old, old_gain] = [x, gain, dout, old, old_gain].map(|values| wide(&values));
        let (expected, expected_inv) = rms_norm(&x, &gain, 1e-2);
        let (grad, gain_grad) = rms_norm_grad(&x, &gain, &expected_inv, &dout);
        let sum = |a: Vec<f64>, b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        case.near_rows(out, width, &expected, "a norm");
        case.near_floats(inv_rms, &expected_inv, "1 / rms of a norm");
        case.near_rows(dx, width, &sum(grad, &old), "the gradient through a norm");
        case.near_floats(dgain, &sum(gain_grad, &old_gain), "the gradient of a gain");
    }
}
