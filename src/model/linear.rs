//! A linear layer: the one place where a product with a trained matrix, its bias and their gradients stand together.

use super::Model;
use super::context::Context;
use super::grad_sink::GradSink;
use super::low_rank::LowRankPair;
use crate::backend::{Accumulate, Backend, Compute, Param, Weight};
use crate::memory::Span;

/// `y = x Wᵀ + b`, and the low-rank terms of adapters.
#[derive(Clone, Debug)]
pub struct Linear {
    /// W `[O, I]`
    pub weight: Param,
    /// b `[O]`
    pub bias: Option<Param>,
    /// What adapters add.
    pub low_rank: Vec<LowRankPair>,
}

impl Model {
    /// `y = x Wᵀ` of a forward pass, in the arithmetic that was chosen for it.
    pub(super) fn product(&self, backend: &mut dyn Backend, x: Span, w: &Weight, y: Span, accumulate: Accumulate) {
        match self.settings.activations.compute {
            Compute::F32 => backend.linear(x, w, y, accumulate),
            Compute::Int8 => backend.linear_int8(x, w, y, accumulate),
            Compute::Fp8 => backend.linear_fp8(x, w, y, accumulate),
        }
    }
}

impl Linear {
    /// A layer without bias.
    pub fn without_bias(weight: Param) -> Self {
        Self { weight, bias: None, low_rank: Vec::new() }
    }

    /// Sets or adds to `y` from `x`.
    pub(super) fn forward(&self, cx: &mut Context<'_>, x: Span, y: Span, accumulate: Accumulate) {
        cx.model.product(cx.backend, x, &self.weight.weight, y, accumulate);
        if let Some(bias) = &self.bias {
            cx.backend.add_bias(y, bias.weight.data, bias.weight.shape.cols);
        }
        let weight = &self.weight.weight;
        self.low_rank.iter().for_each(|pair| pair.forward(cx, (weight, x), y));
    }

    /// The gradient of the bias, if there is one.
    pub(super) fn grad_bias(&self, cx: &mut Context<'_>, dy: Span, sink: &mut GradSink<'_, '_>) {
        let Some(bias) = &self.bias else { return };
        let Some(grad) = sink.grad(bias) else { return };
        let accumulate = sink.begin(cx, grad);
        cx.backend.bias_grad(dy, grad, bias.weight.shape.cols, accumulate);
        sink.add(cx, bias);
    }

    /// Sets or adds to `dx`, then forms the gradients of adapters or of the weight: in this order, because an update may
    /// follow at once.
    pub(super) fn backward(
        &self,
        cx: &mut Context<'_>,
        (dy, x): (Span, Span),
        (dx, accumulate): (Span, Accumulate),
        sink: &mut GradSink<'_, '_>,
    ) {
        cx.backend.linear_grad_input(dy, &self.weight.weight, dx, accumulate);
        let weight = &self.weight.weight;
        self.low_rank.iter().for_each(|pair| pair.backward(cx, (weight, dy, x), dx, sink));
        let Some(grad) = sink.grad(&self.weight) else { return };
        let (shape, accumulate) = (self.weight.weight.shape, sink.begin(cx, grad));
        cx.backend.linear_grad_weight(dy, x, grad, shape.rows, shape.cols, accumulate);
        sink.add(cx, &self.weight);
    }
}
