//! Backward: one gradient at a time. As soon as a parameter's gradient is complete it is handed to `apply`, which
//! consumes it; the buffer then serves the next. A weight's share of the input's gradient is always taken before
//! the weight is handed over, because `apply` changes it.

use super::params::Part;
use super::{ActivationQuant, LayerParams, LayerWork, Model, Pass};
use crate::backend::{Accumulate, AttentionGradArgs, Backend, NormGradArgs, Param};
use crate::memory::Span;

/// Receives each parameter with its complete gradient (float32, unpadded).
pub type Apply<'a> = dyn FnMut(&mut dyn Backend, &Param, Span) + 'a;

/// Where the gradients of a block's parameters go while one micro-batch is in hand.
struct Sink<'a, 'b> {
    /// The parameters as `apply` changes them, by their places in the block.
    params: &'a LayerParams,
    /// Buffers of those that this pass over the micro-batches forms.
    grads: &'a [Option<Span>],
    /// For the others' gains.
    unwanted: Span,
    /// The first micro-batch overwrites, later ones add.
    accumulate: Accumulate,
    /// Whether this is the last micro-batch, after which gradients are complete.
    last: bool,
    apply: &'a mut Apply<'b>,
}

impl Sink<'_, '_> {
    fn grad(&self, param: &Param) -> Option<Span> {
        self.grads[(param.id - self.params.attention_norm.id) as usize]
    }

    /// Whether this pass forms the gradient of a matrix of the attention.
    fn wants_attention(&self) -> bool {
        let params = self.params;
        [&params.query, &params.key, &params.value, &params.output].iter().any(|param| self.grad(param).is_some())
    }

    /// Takes note that a micro-batch's share was added to the gradient of `param`.
    fn added(&mut self, backend: &mut dyn Backend, param: &Param) {
        if let (true, Some(grad)) = (self.last, self.grad(param)) {
            let real = self.params.all().find(|real| real.id == param.id).expect("a parameter of the block");
            (self.apply)(backend, real, grad);
        }
    }

    /// The gradient of a linear layer's weight.
    fn weight(&mut self, backend: &mut dyn Backend, dy: Span, x: Span, param: &Param) {
        let Some(grad) = self.grad(param) else { return };
        let g = param.weight.shape;
        backend.linear_grad_weight(dy, x, grad, g.rows, g.cols, self.accumulate);
        self.added(backend, param);
    }

    /// The gradient of a bias.
    fn bias(&mut self, backend: &mut dyn Backend, dy: Span, param: &Param) {
        let Some(grad) = self.grad(param) else { return };
        backend.bias_grad(dy, grad, param.weight.shape.cols, self.accumulate);
        self.added(backend, param);
    }

    /// The gradient through a norm is added to `dx`; that of its gain is formed with it.
    fn norm(&mut self, backend: &mut dyn Backend, x: Span, gain: &Param, inv_rms: Span, dout: Span, dx: Span) {
        let dgain = self.grad(gain).unwrap_or(self.unwanted.head(gain.weight.data.bytes.min(self.unwanted.bytes)));
        let accumulate = self.accumulate;
        backend.rms_norm_grad(&NormGradArgs { x, gain: gain.weight.data, inv_rms, dout, dx, dgain, accumulate });
        self.added(backend, gain);
    }
}

impl Model {
    /// Losses as [`Model::losses`], and the first part of backward, which changes no parameter: the gradient of the
    /// head's input (`grad.dxn`) and, if untied, of the head (`grad.head`). `scale` multiplies all gradients.
    pub fn loss_and_head_grad(&self, backend: &mut dyn Backend, pass: Pass, scale: f32) {
        let model = &self.settings.model;
        let mut accumulate = Accumulate::No;
        for (from, count) in self.chunks(pass.tokens()) {
            let logits = self.logits(backend, from, count);
            self.cross_entropy(backend, logits, from, count, Some(scale));
            let dxn = self.rows(self.work.grad.dxn, from, count, model.hidden);
            backend.linear_grad_input(logits, &self.params.head().weight, dxn, Accumulate::No);
            if self.params.head.is_some() {
                self.head_grad(backend, logits, self.work.grad.head, from, count, accumulate);
                accumulate = Accumulate::Yes;
            }
        }
    }

    fn head_grad(
        &self,
        backend: &mut dyn Backend,
        dlogits: Span,
        grad: Span,
        from: usize,
        count: usize,
        accumulate: Accumulate,
    ) {
        let model = &self.settings.model;
        let xn = self.rows(self.work.xn, from, count, model.hidden);
        backend.linear_grad_weight(dlogits, xn, grad, model.vocab, model.hidden, accumulate);
    }

    /// The rest of backward, after [`Model::loss_and_head_grad`] with the same `scale`. Each block runs over all
    /// micro-batches before the one below it begins.
    pub fn backward(&self, backend: &mut dyn Backend, pass: Pass, scale: f32, apply: &mut Apply) {
        let (t, grad) = (pass.tokens(), &self.work.grad);
        let layers = self.params.layers.len();
        self.streams.arrive_whole(backend, layers + 1);
        if let Some(head) = &self.params.head {
            apply(backend, head, grad.head);
        }
        let (x, dx) = (self.stream_rows(self.work.x, pass), self.stream_rows(grad.dx, pass));
        backend.zero(dx);
        let (gain, inv_rms) = (&self.params.final_norm, self.work.inv_rms.head(4 * t));
        let dxn = self.stream_rows(grad.dxn, pass);
        backend.rms_norm_grad(&NormGradArgs {
            x,
            gain: gain.weight.data,
            inv_rms,
            dout: dxn,
            dx,
            dgain: grad.final_norm,
            accumulate: Accumulate::No,
        });
        apply(backend, gain, grad.final_norm);
        self.streams.leave_changed(backend, layers + 1);
        for (l, (params, work)) in self.params.layers.iter().zip(&self.work.layers).enumerate().rev() {
            let group = l + 1;
            self.streams.arrive_whole(backend, group);
            // One ahead of its use; the last is the embedding.
            self.streams.fetch(backend, group - 1, Part::Weights);
            self.streams.fetch(backend, group - 1, Part::State);
            self.block_grad(backend, pass, params, work, apply);
            self.streams.leave_changed(backend, group);
        }
        self.streams.arrive_whole(backend, 0);
        self.embedding_grad(backend, pass, scale, apply);
        self.streams.leave_changed(backend, 0);
    }

    /// One block over all micro-batches, as often as its gradients' buffers ask for.
    fn block_grad(
        &self,
        backend: &mut dyn Backend,
        pass: Pass,
        params: &LayerParams,
        work: &LayerWork,
        apply: &mut Apply,
    ) {
        let grad = &self.work.grad;
        let several = grad.passes.len() > 1;
        // An update must not be seen by the passes that follow it.
        let before = several.then(|| self.keep_before(backend, params));
        let used = before.as_ref().unwrap_or(params);
        for (i, grads) in grad.passes.iter().enumerate() {
            let last_pass = i + 1 == grad.passes.len();
            for part in pass.parts(self.work.micro) {
                let x = self.block_input(backend, part, work);
                if i > 0 || !self.work.kept {
                    // With one pass the block's weights are still those of forward: they change when their
                    // gradients are applied.
                    self.attention_block(backend, part, used, work, x);
                    self.activation(backend, part, used, work);
                }
                let dx = self.stream_grad(backend, part, last_pass);
                let mut sink = Sink {
                    params,
                    grads,
                    unwanted: grad.unwanted,
                    accumulate: if part.from == 0 { Accumulate::No } else { Accumulate::Yes },
                    last: part.from + part.tokens() == pass.tokens(),
                    apply,
                };
                self.feed_forward_grad(backend, part, used, work, dx, &mut sink);
                if last_pass || sink.wants_attention() {
                    self.attention_grad(backend, part, used, work, (x, dx), &mut sink);
                }
            }
        }
    }

    /// Copies a block's weights to where its passes read them.
    fn keep_before(&self, backend: &mut dyn Backend, params: &LayerParams) -> LayerParams {
        let before = &self.work.grad.before;
        for (param, copies) in params.all().zip(before) {
            let weight = &param.weight;
            for (from, &to) in [weight.data, weight.scales, weight.offsets].into_iter().zip(copies) {
                if !from.is_none() {
                    backend.copy(from, to);
                }
            }
        }
        params.moved(before)
    }

    /// A micro-batch of a block's input, as backward sees it.
    fn block_input(&self, backend: &mut dyn Backend, part: Pass, work: &LayerWork) -> Span {
        let Some(packed) = work.packed else { return self.stream_rows(work.x, part) };
        let packed = self.packed_rows(packed, part);
        let x = self.rows(self.work.unpacked, 0, part.tokens(), self.settings.model.hidden);
        backend.unpack_rows(packed.codes, packed.scales, x, self.settings.model.hidden);
        x
    }

    /// A micro-batch of the stream's gradient, to be replaced by that below the block; before the last pass a copy.
    fn stream_grad(&self, backend: &mut dyn Backend, part: Pass, last_pass: bool) -> Span {
        let dx = self.stream_rows(self.work.grad.dx, part);
        if last_pass {
            return dx;
        }
        let trial = self.rows(self.work.grad.trial, 0, part.tokens(), self.settings.model.hidden);
        backend.copy(dx, trial);
        trial
    }

    fn feed_forward_grad(
        &self,
        backend: &mut dyn Backend,
        part: Pass,
        params: &LayerParams,
        work: &LayerWork,
        dx: Span,
        sink: &mut Sink<'_, '_>,
    ) {
        let (t, h, f) = (part.tokens(), self.settings.model.hidden, self.settings.model.intermediate);
        let grad = &self.work.grad;
        let (dn, dact) = (self.rows(grad.dn, 0, t, h), self.rows(grad.dact, 0, t, f));
        let (gate, up) = (self.block_rows(work.gate, part, f), self.block_rows(work.up, part, f));
        backend.linear_grad_input(dx, &params.down.weight, dact, Accumulate::No);
        sink.weight(backend, dx, self.block_rows(work.act, part, f), &params.down);
        backend.swiglu_grad(gate, up, dact);
        let xn = self.block_rows(work.xn2, part, h);
        backend.linear_grad_input(gate, &params.gate.weight, dn, Accumulate::No);
        sink.weight(backend, gate, xn, &params.gate);
        backend.linear_grad_input(up, &params.up.weight, dn, Accumulate::Yes);
        sink.weight(backend, up, xn, &params.up);
        let (mid, inv_rms) = (self.block_rows(work.mid, part, h), self.block_floats(work.inv_rms2, part, 1));
        sink.norm(backend, mid, &params.feed_forward_norm, inv_rms, dn, dx);
    }

    fn attention_grad(
        &self,
        backend: &mut dyn Backend,
        part: Pass,
        params: &LayerParams,
        work: &LayerWork,
        (x, dx): (Span, Span),
        sink: &mut Sink<'_, '_>,
    ) {
        let model = &self.settings.model;
        let (t, h, width, kv) = (part.tokens(), model.hidden, model.query_width(), model.kv_width());
        let grad = &self.work.grad;
        let (dn, dheads) = (self.rows(grad.dn, 0, t, h), self.rows(grad.dn, 0, t, width));
        let heads = self.block_rows(work.heads, part, width);
        backend.linear_grad_input(dx, &params.output.weight, dheads, Accumulate::No);
        sink.weight(backend, dx, heads, &params.output);
        let dq = self.rows(grad.dq, 0, t, width);
        let (dk, dv) = (self.rows(grad.dk, 0, t, kv), self.rows(grad.dv, 0, t, kv));
        let q = self.block_rows(work.q, part, width);
        let (k, v) = (self.block_rows(work.k, part, kv), self.block_rows(work.v, part, kv));
        let lse = self.block_floats(work.lse, part, model.heads);
        // Four-bit activations replaced it.
        let out = (self.settings.activations.quant == ActivationQuant::None).then_some(heads);
        let (segment_start, shape) = (self.segment_start(part), self.attention_shape(part));
        let dout = dheads;
        backend.attention_grad(&AttentionGradArgs { q, k, v, out, lse, dout, dq, dk, dv, segment_start, shape });
        backend.rope(dq, self.work.rope, self.rotation(part, model.heads, true));
        backend.rope(dk, self.work.rope, self.rotation(part, model.kv_heads, true));
        let (dq, dk) = match &params.head_norms {
            None => (dq, dk),
            Some([query, key]) => {
                let (inv_q, inv_k) = self.head_rms(work, part);
                let plain_q = self.block_rows(work.plain_q, part, width);
                let plain_k = self.block_rows(work.plain_k, part, kv);
                // The rotated queries and keys have served; their buffers take the gradients before the norms.
                backend.zero(q);
                sink.norm(backend, plain_q, query, inv_q, dq, q);
                backend.zero(k);
                sink.norm(backend, plain_k, key, inv_k, dk, k);
                (q, k)
            }
        };
        for (dy, bias) in [dq, dk, dv].into_iter().zip(params.biases.iter().flatten()) {
            sink.bias(backend, dy, bias);
        }
        let xn = self.block_rows(work.xn1, part, h);
        let mut accumulate = Accumulate::No;
        for (dy, param) in [(dq, &params.query), (dk, &params.key), (dv, &params.value)] {
            backend.linear_grad_input(dy, &param.weight, dn, accumulate);
            sink.weight(backend, dy, xn, param);
            accumulate = Accumulate::Yes;
        }
        let inv_rms = self.block_floats(work.inv_rms1, part, 1);
        sink.norm(backend, x, &params.attention_norm, inv_rms, dn, dx);
    }

    /// A tied head's gradient is formed here, from logits computed a second time: kept from the loss on, it would
    /// be a second matrix gradient alive during the whole of backward.
    fn embedding_grad(&self, backend: &mut dyn Backend, pass: Pass, scale: f32, apply: &mut Apply) {
        let (t, h) = (pass.tokens(), self.settings.model.hidden);
        let embedding = &self.params.embedding;
        let grad = self.work.grad.embedding;
        backend.zero(grad);
        if self.params.head.is_none() {
            for (from, count) in self.chunks(t) {
                let logits = self.logits_in(backend, self.work.grad.logits, from, count);
                self.cross_entropy(backend, logits, from, count, Some(scale));
                self.head_grad(backend, logits, grad, from, count, Accumulate::Yes);
            }
        }
        backend.embedding_grad(self.work.inputs.head(4 * t), self.rows(self.work.grad.dx, 0, t, h), grad, h);
        apply(backend, embedding, grad);
    }
}
