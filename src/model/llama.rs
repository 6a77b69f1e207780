//! The whole model: from tokens to the head's input, and backward from there. One gradient at a time: as soon as a
//! parameter's gradient is complete it is handed to `apply`, which consumes it, or keeps it until something else is written
//! there; the buffer then serves the next. A weight's share of its input's gradient is always taken before the weight is
//! handed over, because `apply` changes it.

use super::context::Context;
use super::grad_sink::GradSink;
use super::params::ParamPart;
use super::{Apply, Batch, Model, ParamKind, Purpose};
use crate::backend::{Accumulate, Backend, NormGradArgs};
use crate::memory::Span;
use std::sync::atomic::Ordering;

/// Shown the number of a block that forward went through, and where what its matrices read lies.
pub type BlockWatch<'a> = dyn FnMut(&mut dyn Backend, usize, [Span; 4]) + 'a;

impl Model {
    /// Rows `from .. from + count` of an activation of `width` features.
    pub(super) fn rows(&self, span: Span, from: usize, count: usize, width: usize) -> Span {
        let row = width.next_multiple_of(self.acts.row_multiple) * self.acts.activation_bytes;
        span.part(from * row, count * row)
    }

    /// The residual stream before block `l`.
    pub(super) fn residual(&self, l: usize) -> Span {
        self.acts.blocks.get(l).map_or(self.acts.x, |acts| acts.x)
    }

    /// From `acts.inputs` to `acts.xn`, the head's input. Each block runs over all micro-batches before the next.
    ///
    /// # Panics
    /// If the batch has more tokens than were planned, or several sequences with `start > 0`.
    pub fn forward(&self, backend: &mut dyn Backend, batch: Batch) {
        self.forward_watched(backend, batch, &mut |_, _, _| {});
    }

    /// The same, and after each block what its matrices read, of a model whose blocks keep that: the input of queries, keys and
    /// values; that of the output; that of gate and up; that of down.
    ///
    /// # Panics
    /// As [`Model::forward`].
    pub fn forward_watched(&self, backend: &mut dyn Backend, batch: Batch, watch: &mut BlockWatch<'_>) {
        let (t, planned, longest) = (batch.tokens(), self.acts.tokens, self.acts.micro_tokens);
        assert!(t <= planned, "{t} tokens, planned for {planned}");
        assert!(batch.queries <= longest, "sequences of {}, planned for {longest}", batch.queries);
        assert!((batch.start == 0 && !batch.cached()) || batch.sequences == 1, "a cache belongs to one sequence");
        let (offloaded, layers, h) = (&self.offloaded, self.params.blocks.len(), self.settings.model.hidden);
        offloaded.wait(backend, 0, ParamPart::Weights);
        let first = self.rows(self.residual(0), 0, t, h);
        self.params.embed(&mut Context { backend, model: self, batch }, first);
        for l in 0..layers {
            let group = l + 1;
            offloaded.wait(backend, group, ParamPart::Weights);
            if group < layers {
                offloaded.prefetch(backend, group + 1, ParamPart::Weights);
            }
            self.block_forward(backend, batch, l);
            watch(backend, l, self.inputs_of(l, t));
            self.passes.fetch_add(1, Ordering::Relaxed);
            offloaded.release(backend, group, ParamPart::Weights, false);
        }
        if let Purpose::Step(_) = batch.purpose {
            // What the first updates need comes while the loss is computed.
            offloaded.prefetch(backend, layers + 1, ParamPart::State);
            offloaded.prefetch(backend, layers, ParamPart::State);
        }
        let (x, xn) = (self.rows(self.acts.x, 0, t, h), self.rows(self.acts.xn, 0, t, h));
        let cx = &mut Context { backend, model: self, batch };
        self.params.final_norm.forward(cx, x, xn, self.acts.inv_rms.head(4 * t));
    }

    /// What the matrices of block `l` read of `tokens` tokens.
    fn inputs_of(&self, l: usize, tokens: usize) -> [Span; 4] {
        let (model, acts) = (&self.settings.model, &self.acts.blocks[l]);
        // Where blocks share their buffers these hold one micro-batch.
        let tokens = if self.acts.kept { tokens } else { tokens.min(self.acts.micro_tokens) };
        [
            (acts.attn_norm_out, model.hidden),
            (acts.attn_out, model.query_width()),
            (acts.mlp_norm_out, model.hidden),
            (acts.act, model.intermediate),
        ]
        .map(|(span, width)| self.rows(span, 0, tokens, width))
    }

    /// The rest of backward, after [`Model::loss_and_head_grad`] with the same `scale`. Each block runs over all
    /// micro-batches before the one below it begins. With an adapter it ends at the lowest block that is adapted, or before all
    /// blocks if the head alone is.
    pub fn backward(&self, backend: &mut dyn Backend, batch: Batch, scale: f32, apply: &mut Apply<'_>) {
        self.walk_back(backend, batch, scale, apply, true);
    }

    /// The same for an `apply` that leaves parameters and their state as they are: nothing offloaded is written back.
    pub fn gradients(&self, backend: &mut dyn Backend, batch: Batch, scale: f32, apply: &mut Apply<'_>) {
        self.walk_back(backend, batch, scale, apply, false);
    }

    fn walk_back(&self, backend: &mut dyn Backend, batch: Batch, scale: f32, apply: &mut Apply<'_>, changes: bool) {
        let (offloaded, layers) = (&self.offloaded, self.params.blocks.len());
        offloaded.wait_whole(backend, layers + 1);
        self.head_backward(backend, batch, apply);
        offloaded.release_whole(backend, layers + 1, changes);
        for l in (self.lowest..layers).rev() {
            let group = l + 1;
            offloaded.wait_whole(backend, group);
            // One ahead of its use; the last is the embedding.
            if l > self.lowest || l == 0 {
                offloaded.prefetch(backend, group - 1, ParamPart::Weights);
                offloaded.prefetch(backend, group - 1, ParamPart::State);
            }
            self.block_backward(backend, batch, l, apply);
            self.passes.fetch_add(1, Ordering::Relaxed);
            offloaded.release_whole(backend, group, changes);
        }
        if self.lowest > 0 {
            return;
        }
        offloaded.wait_whole(backend, 0);
        self.embedding_backward(backend, batch, scale, apply);
        self.embedding_pairs_backward(backend, batch, apply);
        offloaded.release_whole(backend, 0, changes);
    }

    /// Hands over the head's gradient, which the loss left, and goes on through the final norm.
    fn head_backward(&self, backend: &mut dyn Backend, batch: Batch, apply: &mut Apply<'_>) {
        let (t, h, grads) = (batch.tokens(), self.settings.model.hidden, &self.acts.grads);
        let trains = |kind| self.settings.trainable.contains(kind);
        if let (Some(head), true) = (&self.params.head, trains(ParamKind::Head)) {
            apply.apply(backend, &head.weight, grads.head);
            apply.end(backend);
        }
        for (param, grad) in self.head_pair_grads() {
            apply.apply(backend, param, grad);
        }
        if !self.params.head_pairs.is_empty() {
            apply.end(backend);
        }
        backend.zero(self.rows(grads.dx, 0, t, h));
        let (gain, dgain, trained) = (&self.params.final_norm.gain, grads.final_norm, trains(ParamKind::FinalNorm));
        let mut accumulate = if trained { apply.begin(backend, dgain) } else { Accumulate::No };
        for micro in batch.micro_batches(self.acts.micro_tokens) {
            let (from, count) = (micro.from, micro.tokens());
            let [x, dout, dx] = [self.acts.x, grads.dxn, grads.dx].map(|span| self.rows(span, from, count, h));
            let (gain, inv_rms) = (gain.weight.data, self.acts.inv_rms.part(4 * from, 4 * count));
            backend.rms_norm_grad(&NormGradArgs { x, gain, inv_rms, dout, dx, dgain, accumulate });
            accumulate = Accumulate::Yes;
        }
        if trained {
            apply.pass_on(backend, dgain);
            apply.apply(backend, gain, dgain);
            apply.end(backend);
        }
    }

    /// Forms and hands over the gradients of what adapters add to the embedding.
    fn embedding_pairs_backward(&self, backend: &mut dyn Backend, batch: Batch, apply: &mut Apply<'_>) {
        for pair in &self.params.embedding_pairs {
            for micro in batch.micro_batches(self.acts.micro_tokens) {
                let (first, last) = (micro.from == 0, micro.from + micro.tokens() == batch.tokens());
                let mut sink = GradSink::outside(first, last, &mut *apply);
                pair.backward(&mut Context { backend: &mut *backend, model: self, batch: micro }, &mut sink);
            }
            apply.end(backend);
        }
    }

    /// A tied head's gradient is formed here, from logits computed a second time: kept from the loss on, it would
    /// be a second matrix gradient alive during the whole of backward.
    fn embedding_backward(&self, backend: &mut dyn Backend, batch: Batch, scale: f32, apply: &mut Apply<'_>) {
        let (t, h, grad) = (batch.tokens(), self.settings.model.hidden, self.acts.grads.embedding);
        if !self.settings.trainable.contains(ParamKind::Embedding) {
            return;
        }
        if apply.begin(backend, grad) == Accumulate::No {
            backend.zero(grad);
        }
        if self.params.head.is_none() {
            for (from, count) in self.grad_chunks(backend, batch) {
                let logits = self.logits_in(backend, self.acts.grads.logits, batch, (from, count));
                self.cross_entropy(backend, logits, from, count, Some(scale));
                self.head_grad(backend, batch, logits, grad, (from, count), Accumulate::Yes);
            }
            // The head's share of all tokens comes before the embedding's of any.
            apply.pass_round(backend, grad);
        }
        backend.embedding_grad(self.acts.inputs.head(4 * t), self.rows(self.acts.grads.dx, 0, t, h), grad, h);
        apply.pass_on(backend, grad);
        apply.apply(backend, &self.params.embedding, grad);
        apply.end(backend);
    }
}
