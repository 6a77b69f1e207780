//! RMSNorm with a trained gain.

use super::context::Context;
use super::grad_sink::GradSink;
use crate::backend::{Accumulate, NormGradArgs, Param};
use crate::memory::Span;

/// RMSNorm over rows as wide as its gain.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// float32, one number a feature.
    pub gain: Param,
}

impl Norm {
    /// Sets `y` from `x`, and `inv_rms` to 1/rms of each row, which backward reads.
    pub(super) fn forward(&self, cx: &mut Context<'_>, x: Span, y: Span, inv_rms: Span) {
        let eps = cx.model.settings.model.norm_eps as f32;
        cx.backend.rms_norm(x, self.gain.weight.data, y, inv_rms, eps);
    }

    /// Adds the gradient through the norm to `dx`; that of the gain is formed with it.
    pub(super) fn backward(
        &self,
        cx: &mut Context<'_>,
        (dy, x, inv_rms): (Span, Span, Span),
        dx: Span,
        sink: &mut GradSink<'_, '_>,
    ) {
        let accumulate = sink.grad(&self.gain).map_or(Accumulate::No, |grad| sink.begin(cx, grad));
        let dgain = sink.grad_or_discarded(&self.gain);
        let gain = self.gain.weight.data;
        cx.backend.rms_norm_grad(&NormGradArgs { x, gain, inv_rms, dout: dy, dx, dgain, accumulate });
        sink.add(cx, &self.gain);
    }
}
