//! RMSNorm.

use super::Accumulate;
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
