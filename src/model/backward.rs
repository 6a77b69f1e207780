//! Backward: one gradient at a time. As soon as a parameter's gradient is complete it is handed to `apply`, which
//! consumes it; the buffer then serves the next. A weight's share of the input's gradient is always taken before
//! the weight is handed over, because `apply` changes it.

use super::{LayerParams, LayerWork, Model, Pass};
use crate::backend::{Backend, Param, Store};
use crate::config::{ActivationQuant, KeptActivations};
use crate::memory::Span;

/// Receives each parameter with its complete gradient (float32, unpadded).
pub type Apply<'a> = dyn FnMut(&mut dyn Backend, &Param, Span) + 'a;

impl Model {
    /// Losses as [`Model::losses`], and the first part of backward, which changes no parameter: the gradient of the
    /// head's input (`grad.dn`) and, if untied, of the head (`grad.matrix`). `scale` multiplies all gradients.
    pub fn loss_and_head_grad(&self, backend: &mut dyn Backend, pass: Pass, scale: f32) {
        let model = &self.config.model;
        let mut store = Store::Overwrite;
        for (from, count) in self.chunks(pass.tokens()) {
            let logits = self.logits(backend, from, count);
            self.cross_entropy(backend, logits, from, count, Some(scale));
            let dn = self.rows(self.work.grad.dn, from, count, model.hidden);
            backend.linear_grad_input(logits, &self.params.head().weight, dn, Store::Overwrite);
            if self.params.head.is_some() {
                self.head_grad(backend, logits, from, count, store);
                store = Store::Accumulate;
            }
        }
    }

    fn head_grad(&self, backend: &mut dyn Backend, dlogits: Span, from: usize, count: usize, store: Store) {
        let model = &self.config.model;
        let xn = self.rows(self.work.xn, from, count, model.hidden);
        let grad = self.work.grad.matrix.head(4 * model.vocab * model.hidden);
        backend.linear_grad_weight(dlogits, xn, grad, model.vocab, model.hidden, store);
    }

    /// The rest of backward, after [`Model::loss_and_head_grad`] with the same `scale`.
    pub fn backward(&self, backend: &mut dyn Backend, pass: Pass, scale: f32, apply: &mut Apply) {
        let (t, h) = (pass.tokens(), self.config.model.hidden);
        let grad = &self.work.grad;
        if let Some(head) = &self.params.head {
            apply(backend, head, grad.matrix.head(4 * head.weight.geometry.len()));
        }
        let (dx, dn) = (self.rows(grad.dx, 0, t, h), self.rows(grad.dn, 0, t, h));
        backend.zero(dx);
        let x = self.rows(self.work.x, 0, t, h);
        self.norm_grad(backend, x, &self.params.final_norm, self.work.inv_rms.head(4 * t), dn, apply);
        for (params, work) in self.params.layers.iter().zip(&self.work.layers).rev() {
            if self.config.run.activations == KeptActivations::Recompute {
                // The block's weights are still those of forward: they change when their gradients are applied.
                self.attention_block(backend, pass, params, work);
                self.activation(backend, pass, params, work);
            }
            self.feed_forward_grad(backend, pass, params, work, apply);
            self.attention_grad(backend, pass, params, work, apply);
        }
        self.embedding_grad(backend, pass, scale, apply);
    }

    fn norm_grad(
        &self,
        backend: &mut dyn Backend,
        x: Span,
        gain: &Param,
        inv_rms: Span,
        dout: Span,
        apply: &mut Apply,
    ) {
        let dx = self.work.grad.dx.head(x.bytes);
        self.norm_grad_into(backend, x, gain, inv_rms, dout, dx, apply);
    }

    /// The gradient through a norm is added to `dx`; that of its gain is applied.
    #[allow(clippy::too_many_arguments)]
    fn norm_grad_into(
        &self,
        backend: &mut dyn Backend,
        x: Span,
        gain: &Param,
        inv_rms: Span,
        dout: Span,
        dx: Span,
        apply: &mut Apply,
    ) {
        let grad = self.work.grad.vector.head(4 * gain.weight.geometry.cols);
        backend.rms_norm_grad(x, gain.weight.data, inv_rms, dout, dx, grad);
        apply(backend, gain, grad);
    }

    /// The gradient of a linear layer's weight, applied at once.
    fn weight_grad(&self, backend: &mut dyn Backend, dy: Span, x: Span, param: &Param, apply: &mut Apply) {
        let g = param.weight.geometry;
        let grad = self.work.grad.matrix.head(4 * g.len());
        backend.linear_grad_weight(dy, x, grad, g.rows, g.cols, Store::Overwrite);
        apply(backend, param, grad);
    }

    fn feed_forward_grad(
        &self,
        backend: &mut dyn Backend,
        pass: Pass,
        params: &LayerParams,
        work: &LayerWork,
        apply: &mut Apply,
    ) {
        let (t, h, f) = (pass.tokens(), self.config.model.hidden, self.config.model.intermediate);
        let grad = &self.work.grad;
        let (dx, dn) = (self.rows(grad.dx, 0, t, h), self.rows(grad.dn, 0, t, h));
        let dact = self.rows(grad.dact, 0, t, f);
        let (gate, up) = (self.rows(work.gate, 0, t, f), self.rows(work.up, 0, t, f));
        backend.linear_grad_input(dx, &params.down.weight, dact, Store::Overwrite);
        self.weight_grad(backend, dx, self.rows(work.act, 0, t, f), &params.down, apply);
        backend.swiglu_grad(gate, up, dact);
        let xn = self.rows(work.xn2, 0, t, h);
        backend.linear_grad_input(gate, &params.gate.weight, dn, Store::Overwrite);
        self.weight_grad(backend, gate, xn, &params.gate, apply);
        backend.linear_grad_input(up, &params.up.weight, dn, Store::Accumulate);
        self.weight_grad(backend, up, xn, &params.up, apply);
        let mid = self.rows(work.mid, 0, t, h);
        self.norm_grad(backend, mid, &params.feed_forward_norm, work.inv_rms2.head(4 * t), dn, apply);
    }

    fn attention_grad(
        &self,
        backend: &mut dyn Backend,
        pass: Pass,
        params: &LayerParams,
        work: &LayerWork,
        apply: &mut Apply,
    ) {
        let model = &self.config.model;
        let (t, h, width, kv) = (pass.tokens(), model.hidden, model.query_width(), model.kv_width());
        let grad = &self.work.grad;
        let (dx, dn) = (self.rows(grad.dx, 0, t, h), self.rows(grad.dn, 0, t, h));
        let dheads = self.rows(grad.dn, 0, t, width);
        backend.linear_grad_input(dx, &params.output.weight, dheads, Store::Overwrite);
        self.weight_grad(backend, dx, self.rows(work.heads, 0, t, width), &params.output, apply);
        let dq = self.rows(grad.dq, 0, t, width);
        let (dk, dv) = (self.rows(grad.dk, 0, t, kv), self.rows(grad.dv, 0, t, kv));
        let (q, k, v) = (self.rows(work.q, 0, t, width), self.rows(work.k, 0, t, kv), self.rows(work.v, 0, t, kv));
        let lse = work.lse.head(4 * t * model.heads);
        // Four-bit activations replaced it.
        let out = (self.config.activations.quant == ActivationQuant::None).then(|| self.rows(work.heads, 0, t, width));
        backend.attention_grad(
            q,
            k,
            v,
            out,
            lse,
            dheads,
            dq,
            dk,
            dv,
            self.first_keys(pass),
            self.attention_shape(pass),
        );
        backend.rope(dq, self.work.rope, self.rotation(pass, model.heads, true));
        backend.rope(dk, self.work.rope, self.rotation(pass, model.kv_heads, true));
        let (dq, dk) = match &params.head_norms {
            None => (dq, dk),
            Some([query, key]) => {
                let (inv_q, inv_k) = self.head_rms(work, t);
                let (plain_q, plain_k) = (self.rows(work.plain_q, 0, t, width), self.rows(work.plain_k, 0, t, kv));
                // The rotated queries and keys have served; their buffers take the gradients before the norms.
                backend.zero(q);
                self.norm_grad_into(backend, plain_q, query, inv_q, dq, q, apply);
                backend.zero(k);
                self.norm_grad_into(backend, plain_k, key, inv_k, dk, k, apply);
                (q, k)
            }
        };
        for (dy, bias) in [dq, dk, dv].into_iter().zip(params.biases.iter().flatten()) {
            let width = bias.weight.geometry.cols;
            let grad = grad.vector.head(4 * width);
            backend.bias_grad(dy, grad, width);
            apply(backend, bias, grad);
        }
        let xn = self.rows(work.xn1, 0, t, h);
        let mut store = Store::Overwrite;
        for (dy, param) in [(dq, &params.query), (dk, &params.key), (dv, &params.value)] {
            backend.linear_grad_input(dy, &param.weight, dn, store);
            self.weight_grad(backend, dy, xn, param, apply);
            store = Store::Accumulate;
        }
        let x = self.rows(work.x, 0, t, h);
        self.norm_grad(backend, x, &params.attention_norm, work.inv_rms1.head(4 * t), dn, apply);
    }

    /// A tied head's gradient is formed here, from logits computed a second time: kept from the loss on, it would
    /// be a second matrix gradient alive during the whole of backward.
    fn embedding_grad(&self, backend: &mut dyn Backend, pass: Pass, scale: f32, apply: &mut Apply) {
        let (t, h) = (pass.tokens(), self.config.model.hidden);
        let embedding = &self.params.embedding;
        let grad = self.work.grad.matrix.head(4 * embedding.weight.geometry.len());
        backend.zero(grad);
        if self.params.head.is_none() {
            for (from, count) in self.chunks(t) {
                let logits = self.logits(backend, from, count);
                self.cross_entropy(backend, logits, from, count, Some(scale));
                self.head_grad(backend, logits, from, count, Store::Accumulate);
            }
        }
        backend.embedding_grad(self.work.inputs.head(4 * t), self.rows(self.work.grad.dx, 0, t, h), grad, h);
        apply(backend, embedding, grad);
    }
}
