//! A linear layer: the one place where a product with a trained matrix, its bias and their gradients stand together.

use super::context::Context;
use super::grad_sink::GradSink;
use super::low_rank::LowRankPair;
use super::{Batch, Model, Purpose};
use crate::backend::{Accumulate, Backend, Compute, Param, RowDraws, Weight};
use crate::memory::Span;
use crate::quant::{RngKey, RngUse};
use half::bf16;

/// Tokens that are computed in float32 while text is written, if products are in bfloat16.
const FEW: usize = 4;

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
    /// What a backend computes where `chosen` is the configuration's word.
    fn compute(&self, backend: &dyn Backend, chosen: Compute) -> Compute {
        match chosen {
            // Its operands are such floats, and it has faster ways to the same.
            Compute::Bf16 if backend.activation_bytes() == size_of::<bf16>() => Compute::F32,
            chosen => chosen,
        }
    }

    /// What the forward products of a batch are computed in.
    fn forward_compute(&self, backend: &dyn Backend, batch: Batch) -> Compute {
        match self.compute(backend, self.settings.activations.compute) {
            // Reading weights is what writing text takes its time for, and nothing need be rounded for that.
            Compute::Bf16 if batch.cached() && batch.tokens() <= FEW => Compute::F32,
            chosen => chosen,
        }
    }

    /// Tokens of the blocks that begin anew with every sequence, where the gradients of weights are sums of such: what is
    /// summed at once has to be cut between blocks.
    pub(super) fn sum_block(&self, backend: &dyn Backend) -> Option<usize> {
        self.compute(backend, self.settings.activations.grad_weight()).sum_block()
    }

    /// The random numbers that the rows of a gradient are rounded by: those of a tensor, for the tokens of a batch.
    fn draws(&self, batch: Batch, tensor: u32, usage: RngUse) -> RowDraws {
        let step = if let Purpose::Step(step) = batch.purpose { step } else { 0 };
        let key = RngKey { seed: self.settings.seed, step, tensor, usage };
        RowDraws { key, first_row: batch.before + batch.from }
    }

    /// `y = x Wᵀ` of a forward pass, in the arithmetic that was chosen for it.
    pub(super) fn product(
        &self,
        backend: &mut dyn Backend,
        batch: Batch,
        x: Span,
        (w, y): (&Weight, Span),
        accumulate: Accumulate,
    ) {
        backend.linear_in(self.forward_compute(backend, batch), x, &[(w, y)], accumulate);
    }

    /// `dx = dy W`, of the tokens of a batch; what is random is that of tensor number `id`.
    pub(super) fn product_grad_input(
        &self,
        backend: &mut dyn Backend,
        batch: Batch,
        dy: Span,
        (w, id): (&Weight, u32),
        (dx, accumulate): (Span, Accumulate),
    ) {
        match self.compute(backend, self.settings.activations.grad_input()) {
            Compute::Bf16 => backend.linear_grad_input_bf16(dy, w, dx, accumulate),
            Compute::Int8 if Compute::Int8.takes(w.format.codec()) => {
                backend.linear_grad_input_int8(dy, w, dx, accumulate, &self.draws(batch, id, RngUse::GradInput));
            }
            _ => backend.linear_grad_input(dy, w, dx, accumulate),
        }
    }

    /// `dW = dyᵀ x`, of `[dy, x, dW]`, of the tokens of a batch: whole sequences, or all of one part of a sequence.
    pub(super) fn product_grad_weight(
        &self,
        backend: &mut dyn Backend,
        batch: Batch,
        param: &Param,
        operands: [Span; 3],
        accumulate: Accumulate,
    ) {
        let (Weight { shape, format, .. }, [dy, x, grad]) = (param.weight, operands);
        let size = (shape.rows, shape.cols);
        match self.compute(backend, self.settings.activations.grad_weight()) {
            Compute::Bf16 => backend.linear_grad_weight_bf16(operands, size, accumulate, batch.queries),
            Compute::Int8 if Compute::Int8.takes(format.codec()) => {
                let draws = self.draws(batch, param.id, RngUse::GradWeight);
                backend.linear_grad_weight_int8(operands, size, accumulate, batch.queries, &draws);
            }
            _ => backend.linear_grad_weight(dy, x, grad, shape.rows, shape.cols, accumulate),
        }
    }
}

/// The outputs of layers that share the input `x`.
pub(super) fn forward_joined<const N: usize>(cx: &mut Context<'_>, x: Span, layers: [(&Linear, Span); N]) {
    let products = layers.map(|(layer, y)| (&layer.weight.weight, y));
    match cx.model.forward_compute(cx.backend, cx.batch) {
        Compute::F32 => cx.backend.linear_joined(x, &products),
        compute => cx.backend.linear_in(compute, x, &products, Accumulate::No),
    }
    layers.iter().for_each(|(layer, y)| layer.add_terms(cx, x, *y));
}

/// The gradients of the weights of layers that share the input `x`, from those of their outputs. Before it come all that is
/// computed with these weights: an update may follow at once.
pub(super) fn grad_weights_joined<const N: usize>(
    cx: &mut Context<'_>,
    x: Span,
    layers: [(&Linear, Span); N],
    sink: &mut GradSink<'_, '_>,
) {
    let grads = layers.map(|(layer, _)| sink.grad(&layer.weight));
    let shape = layers[0].0.weight.weight.shape;
    let alike = layers.iter().all(|(layer, _)| layer.weight.weight.shape == shape);
    let in_floats = cx.model.compute(cx.backend, cx.model.settings.activations.grad_weight()) == Compute::F32;
    if let (true, true, Some(grads)) = (cx.backend.joins_products() && in_floats, alike, apart(grads)) {
        let begun = grads.map(|grad| sink.begin(cx, grad));
        let pairs = std::array::from_fn::<_, N, _>(|i| (layers[i].1, grads[i]));
        cx.backend.linear_grad_weight_joined(x, &pairs, (shape.rows, shape.cols), begun[0]);
        return layers.iter().for_each(|(layer, _)| sink.add(cx, &layer.weight));
    }
    layers.into_iter().for_each(|(layer, dy)| layer.grad_weight(cx, (dy, x), sink));
}

/// All of these buffers, if they are all there and no two share bytes, as they do where gradients have their turns.
fn apart<const N: usize>(grads: [Option<Span>; N]) -> Option<[Span; N]> {
    let all = grads.iter().all(Option::is_some).then(|| grads.map(Option::unwrap_or_default))?;
    (0..N).all(|i| !all[..i].iter().any(|other| other.overlaps(all[i]))).then_some(all)
}

impl Linear {
    /// A layer without bias.
    pub fn without_bias(weight: Param) -> Self {
        Self { weight, bias: None, low_rank: Vec::new() }
    }

    /// Sets `y` to `onto` and what the layer makes of `x`.
    pub(super) fn forward_onto(&self, cx: &mut Context<'_>, x: Span, onto: Span, y: Span) {
        match cx.model.forward_compute(cx.backend, cx.batch) {
            Compute::F32 => cx.backend.linear_onto(x, &self.weight.weight, onto, y),
            _ => {
                cx.backend.copy(onto, y);
                cx.model.product(cx.backend, cx.batch, x, (&self.weight.weight, y), Accumulate::Yes);
            }
        }
        self.add_terms(cx, x, y);
    }

    /// Adds bias and adapters to the product.
    fn add_terms(&self, cx: &mut Context<'_>, x: Span, y: Span) {
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
        self.grad_input(cx, (dy, x), (dx, accumulate), sink);
        self.grad_weight(cx, (dy, x), sink);
    }

    /// Sets or adds to `dx`, and forms the gradients of adapters.
    pub(super) fn grad_input(
        &self,
        cx: &mut Context<'_>,
        (dy, x): (Span, Span),
        (dx, accumulate): (Span, Accumulate),
        sink: &mut GradSink<'_, '_>,
    ) {
        let weight = &self.weight.weight;
        cx.model.product_grad_input(cx.backend, cx.batch, dy, (weight, self.weight.id), (dx, accumulate));
        self.low_rank.iter().for_each(|pair| pair.backward(cx, (weight, dy, x), dx, sink));
    }

    fn grad_weight(&self, cx: &mut Context<'_>, (dy, x): (Span, Span), sink: &mut GradSink<'_, '_>) {
        let Some(grad) = sink.grad(&self.weight) else { return };
        let accumulate = sink.begin(cx, grad);
        cx.model.product_grad_weight(cx.backend, cx.batch, &self.weight, [dy, x, grad], accumulate);
        sink.add(cx, &self.weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Place;

    #[test]
    fn buffers_that_share_bytes_are_not_apart() {
        let span = |offset| Some(Span { place: Place::Arena, offset, bytes: 64 });
        assert_eq!(apart([span(128), span(0), span(64)]), Some([128, 0, 64].map(|offset| span(offset).unwrap())));
        for others in [[span(0), span(0)], [span(0), span(32)], [span(32), span(0)], [span(0), None]] {
            assert_eq!(apart(others), None);
        }
    }
}
