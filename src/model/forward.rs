//! Forward: tokens to the head's input, and the chunked loss.

use super::params::Part;
use super::work::Packed;
use super::{ActivationQuant, LayerParams, LayerWork, Model};
use crate::backend::{Accumulate, AttentionArgs, AttentionShape, Backend, Rotation, packed_bytes};
use crate::memory::Span;
use crate::quant::{RngKey, RngUse};
use zerocopy::IntoBytes;

/// What a pass is for, and so what it leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Losses; or a backward, unless it reads packed inputs, which only a step leaves.
    Score,
    /// Sampling: keys and values go to the caches, nothing is kept for backward.
    Sample,
    /// The step of this number: blocks' inputs are packed where backward reads them so.
    Step(u32),
}

/// Shape of one pass, or of a micro-batch of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Sequences.
    pub batch: usize,
    /// Tokens per sequence.
    pub queries: usize,
    /// Position of the first token; not zero only for one sequence whose earlier keys are cached.
    pub start: usize,
    /// Of a micro-batch: tokens of the batch before it.
    pub from: usize,
    /// What it is for.
    pub purpose: Purpose,
}

impl Pass {
    /// A pass over whole sequences.
    pub fn whole(batch: usize, queries: usize) -> Self {
        Self { batch, queries, start: 0, from: 0, purpose: Purpose::Score }
    }

    /// The pass of a training step.
    pub fn step(batch: usize, queries: usize, step: u64) -> Self {
        Self { purpose: Purpose::Step(step as u32), ..Self::whole(batch, queries) }
    }

    /// T
    pub fn tokens(&self) -> usize {
        self.batch * self.queries
    }

    /// Micro-batches of whole sequences, of at most `tokens` tokens each unless one sequence is longer.
    pub(super) fn parts(self, tokens: usize) -> impl Iterator<Item = Self> {
        let most = (tokens / self.queries).max(1);
        let part = move |first| Self { batch: most.min(self.batch - first), from: first * self.queries, ..self };
        (0..self.batch).step_by(most).map(part)
    }

    fn cached(&self) -> bool {
        self.purpose == Purpose::Sample
    }
}

impl Model {
    /// Rows `from .. from + count` of an activation of `width` features.
    pub(super) fn rows(&self, span: Span, from: usize, count: usize, width: usize) -> Span {
        let row = width.next_multiple_of(self.work.row_multiple) * self.work.activation_bytes;
        span.part(from * row, count * row)
    }

    /// A micro-batch's rows of an activation that is as long as the batch.
    pub(super) fn stream_rows(&self, span: Span, part: Pass) -> Span {
        self.rows(span, part.from, part.tokens(), self.settings.model.hidden)
    }

    /// A micro-batch's rows of what a block computes.
    pub(super) fn block_rows(&self, span: Span, part: Pass, width: usize) -> Span {
        self.rows(span, self.kept_from(part), part.tokens(), width)
    }

    /// A micro-batch's `count` float32 numbers a token of what a block computes.
    pub(super) fn block_floats(&self, span: Span, part: Pass, count: usize) -> Span {
        span.part(4 * self.kept_from(part) * count, 4 * part.tokens() * count)
    }

    /// The first row of a micro-batch in what blocks compute.
    fn kept_from(&self, part: Pass) -> usize {
        if self.work.kept { part.from } else { 0 }
    }

    pub(super) fn attention_shape(&self, pass: Pass) -> AttentionShape {
        let model = &self.settings.model;
        AttentionShape {
            batch: pass.batch,
            queries: pass.queries,
            start: pass.start,
            capacity: pass.start + pass.queries,
            heads: model.heads,
            kv_heads: model.kv_heads,
            head_dim: model.head_dim(),
        }
    }

    /// Where the samples of a pass begin, if its rows may hold several. Positions go on counting through a row: rotary
    /// embeddings make attention depend on their differences alone.
    pub(super) fn segment_start(&self, pass: Pass) -> Option<Span> {
        let known = !self.work.first.is_none() && !pass.cached();
        known.then(|| self.work.first.part(4 * pass.from, 4 * pass.tokens()))
    }

    pub(super) fn rotation(&self, pass: Pass, heads: usize, inverse: bool) -> Rotation {
        let head_dim = self.settings.model.head_dim();
        Rotation { heads, head_dim, queries: pass.queries, start: pass.start, inverse }
    }

    /// From `work.inputs` to `work.xn`, the head's input. Each block runs over all micro-batches before the next.
    ///
    /// # Panics
    /// If the pass has more tokens than were planned, or several sequences with `start > 0`.
    pub fn forward(&self, backend: &mut dyn Backend, pass: Pass) {
        assert!(pass.tokens() <= self.work.tokens, "{} tokens, planned for {}", pass.tokens(), self.work.tokens);
        assert!(pass.queries <= self.work.micro, "sequences of {}, planned for {}", pass.queries, self.work.micro);
        assert!((pass.start == 0 && !pass.cached()) || pass.batch == 1, "a cache belongs to one sequence");
        let t = pass.tokens();
        let first = self.stream_rows(self.stream(0), pass);
        let streams = &self.streams;
        streams.arrive(backend, 0, Part::Weights);
        backend.embedding(self.work.inputs.head(4 * t), &self.params.embedding.weight, first);
        for (l, (params, work)) in self.params.layers.iter().zip(&self.work.layers).enumerate() {
            let group = l + 1;
            streams.arrive(backend, group, Part::Weights);
            if group < self.params.layers.len() {
                streams.fetch(backend, group + 1, Part::Weights);
            }
            for part in pass.parts(self.work.micro) {
                let x = self.stream_rows(work.x, part);
                if let (Some(packed), Purpose::Step(step)) = (work.packed, pass.purpose) {
                    self.pack(backend, x, packed, part, l, step);
                }
                self.attention_block(backend, part, params, work, x);
                self.activation(backend, part, params, work);
                self.feed_forward_output(backend, part, params, work, self.stream(l + 1));
            }
            streams.leave(backend, group, Part::Weights, false);
        }
        if let Purpose::Step(_) = pass.purpose {
            // What the first updates need comes while the loss is computed.
            let layers = self.params.layers.len();
            streams.fetch(backend, layers + 1, Part::State);
            streams.fetch(backend, layers, Part::State);
        }
        let eps = self.settings.model.norm_eps as f32;
        backend.rms_norm(
            self.stream_rows(self.work.x, pass),
            self.params.final_norm.weight.data,
            self.stream_rows(self.work.xn, pass),
            self.work.inv_rms.head(4 * t),
            eps,
        );
    }

    fn pack(&self, backend: &mut dyn Backend, x: Span, packed: Packed, part: Pass, l: usize, step: u32) {
        let (seed, tensor) = (self.settings.seed, l as u32);
        let key = RngKey { seed, step, tensor, usage: RngUse::ActivationPack };
        let packed = self.packed_rows(packed, part);
        backend.pack_rows(x, packed.codes, packed.scales, self.settings.model.hidden, part.from, &key);
    }

    /// A micro-batch's part of a packed input.
    pub(super) fn packed_rows(&self, packed: Packed, part: Pass) -> Packed {
        let (codes, scales) = packed_bytes(1, self.settings.model.hidden);
        let (from, t) = (part.from, part.tokens());
        Packed {
            codes: packed.codes.part(from * codes, t * codes),
            scales: packed.scales.part(from * scales, t * scales),
        }
    }

    /// The residual stream before block `l`.
    pub(super) fn stream(&self, l: usize) -> Span {
        self.work.layers.get(l).map_or(self.work.x, |work| work.x)
    }

    pub(super) fn quantize(&self, backend: &mut dyn Backend, x: Span, features: usize) {
        if self.settings.activations.quant == ActivationQuant::Int4 {
            backend.quantize_activations(x, features);
        }
    }

    /// From a block's input `x`, all that its backward reads; `forward` goes on to the block's output.
    pub(super) fn attention_block(
        &self,
        backend: &mut dyn Backend,
        pass: Pass,
        params: &LayerParams,
        work: &LayerWork,
        x: Span,
    ) {
        let model = &self.settings.model;
        let (t, h, width, kv) = (pass.tokens(), model.hidden, model.query_width(), model.kv_width());
        let xn = self.block_rows(work.xn1, pass, h);
        let inv_rms = self.block_floats(work.inv_rms1, pass, 1);
        backend.rms_norm(x, params.attention_norm.weight.data, xn, inv_rms, model.norm_eps as f32);
        self.quantize(backend, xn, h);
        let q = self.block_rows(work.q, pass, width);
        // Keys and values of this pass, and all that its queries see.
        let of = |cache: Span, own: Span| match pass.cached() {
            true => (self.rows(cache, pass.start, t, kv), self.rows(cache, 0, pass.start + t, kv)),
            false => (self.block_rows(own, pass, kv), self.block_rows(own, pass, kv)),
        };
        let ((k, keys), (v, values)) = (of(work.cache_k, work.k), of(work.cache_v, work.v));
        // Where heads are normed, backward needs them as they were before.
        let (plain_q, plain_k) = match params.head_norms {
            Some(_) => (self.block_rows(work.plain_q, pass, width), self.block_rows(work.plain_k, pass, kv)),
            None => (q, k),
        };
        backend.linear(xn, &params.query.weight, plain_q, Accumulate::No);
        backend.linear(xn, &params.key.weight, plain_k, Accumulate::No);
        backend.linear(xn, &params.value.weight, v, Accumulate::No);
        if let Some(biases) = &params.biases {
            for (x, bias) in [plain_q, plain_k, v].into_iter().zip(biases) {
                backend.add_bias(x, bias.weight.data, bias.weight.shape.cols);
            }
        }
        if let Some([query, key]) = &params.head_norms {
            let eps = model.norm_eps as f32;
            let (inv_q, inv_k) = self.head_rms(work, pass);
            backend.rms_norm(plain_q, query.weight.data, q, inv_q, eps);
            backend.rms_norm(plain_k, key.weight.data, k, inv_k, eps);
        }
        backend.rope(q, self.work.rope, self.rotation(pass, model.heads, false));
        backend.rope(k, self.work.rope, self.rotation(pass, model.kv_heads, false));
        let heads = self.block_rows(work.heads, pass, width);
        let lse = self.block_floats(work.lse, pass, model.heads);
        let (segment_start, shape) = (self.segment_start(pass), self.attention_shape(pass));
        backend.attention(&AttentionArgs { q, k: keys, v: values, out: heads, lse, segment_start, shape });
        self.quantize(backend, heads, width);
        let mid = self.block_rows(work.mid, pass, h);
        backend.copy(x, mid);
        backend.linear(heads, &params.output.weight, mid, Accumulate::Yes);
    }

    /// 1/rms of every query head and every key head of a micro-batch.
    pub(super) fn head_rms(&self, work: &LayerWork, part: Pass) -> (Span, Span) {
        let model = &self.settings.model;
        let of = |span, heads| self.block_floats(span, part, heads);
        (of(work.inv_rms_q, model.heads), of(work.inv_rms_k, model.kv_heads))
    }

    /// The feed-forward block up to its activation, of which backward reads all.
    pub(super) fn activation(&self, backend: &mut dyn Backend, pass: Pass, params: &LayerParams, work: &LayerWork) {
        let model = &self.settings.model;
        let (h, f) = (model.hidden, model.intermediate);
        let (mid, xn) = (self.block_rows(work.mid, pass, h), self.block_rows(work.xn2, pass, h));
        let gain = params.feed_forward_norm.weight.data;
        backend.rms_norm(mid, gain, xn, self.block_floats(work.inv_rms2, pass, 1), model.norm_eps as f32);
        self.quantize(backend, xn, h);
        let (gate, up) = (self.block_rows(work.gate, pass, f), self.block_rows(work.up, pass, f));
        let act = self.block_rows(work.act, pass, f);
        backend.linear(xn, &params.gate.weight, gate, Accumulate::No);
        backend.linear(xn, &params.up.weight, up, Accumulate::No);
        backend.swiglu(gate, up, act);
        self.quantize(backend, act, f);
    }

    fn feed_forward_output(
        &self,
        backend: &mut dyn Backend,
        pass: Pass,
        params: &LayerParams,
        work: &LayerWork,
        out: Span,
    ) {
        let (h, f) = (self.settings.model.hidden, self.settings.model.intermediate);
        let (mid, act) = (self.block_rows(work.mid, pass, h), self.block_rows(work.act, pass, f));
        let out = self.stream_rows(out, pass);
        backend.copy(mid, out);
        backend.linear(act, &params.down.weight, out, Accumulate::Yes);
    }

    /// The logits of `count` tokens from token `from` on, in `work.logits`.
    ///
    /// # Panics
    /// If `count` is larger than `work.chunk`.
    pub fn logits(&self, backend: &mut dyn Backend, from: usize, count: usize) -> Span {
        self.logits_in(backend, self.work.logits, from, count)
    }

    /// The same in another buffer.
    pub(super) fn logits_in(&self, backend: &mut dyn Backend, buffer: Span, from: usize, count: usize) -> Span {
        let model = &self.settings.model;
        let logits = self.rows(buffer, 0, count, model.vocab);
        let xn = self.rows(self.work.xn, from, count, model.hidden);
        backend.linear(xn, &self.params.head().weight, logits, Accumulate::No);
        logits
    }

    /// Losses of all tokens of a pass after [`Model::forward`], in `work.losses`; targets are in `work.targets`.
    pub fn losses(&self, backend: &mut dyn Backend, pass: Pass) {
        for (from, count) in self.chunks(pass.tokens()) {
            let logits = self.logits(backend, from, count);
            self.cross_entropy(backend, logits, from, count, None);
        }
    }

    /// Puts a pass's tokens where [`Model::forward`] and the loss read them, each row one sample.
    pub fn upload_tokens(&self, backend: &mut dyn Backend, inputs: &[u32], targets: &[u32]) {
        backend.upload(inputs.as_bytes(), self.work.inputs.head(4 * inputs.len()));
        backend.upload(targets.as_bytes(), self.work.targets.head(4 * targets.len()));
        if !self.work.first.is_none() {
            backend.zero(self.work.first.head(4 * inputs.len()));
        }
    }

    /// After [`Model::upload_tokens`]: where in its row each token's sample begins; empty if each row is one sample.
    ///
    /// # Panics
    /// If several samples in a row were not planned for.
    pub fn upload_first(&self, backend: &mut dyn Backend, first: &[u32]) {
        if !first.is_empty() {
            assert!(!self.work.first.is_none(), "planned for rows of one sample");
            backend.upload(first.as_bytes(), self.work.first.head(4 * first.len()));
        }
    }

    /// Sum of the losses that a pass of `losses.len()` tokens left, in nats; they are copied to `losses`.
    pub fn sum_losses(&self, backend: &dyn Backend, losses: &mut [f32]) -> f64 {
        backend.download(self.work.losses.head(4 * losses.len()), losses.as_mut_bytes());
        losses.iter().map(|&loss| f64::from(loss)).sum()
    }

    /// Sum of the losses of a pass, in nats, without training. `inputs`, `targets` and `losses` are `[T]`; `first` as in
    /// [`Model::upload_first`].
    ///
    /// # Panics
    /// If the slices are not as long as the pass, or that exceeds what was planned.
    pub fn evaluate(
        &self,
        backend: &mut dyn Backend,
        pass: Pass,
        inputs: &[u32],
        targets: &[u32],
        first: &[u32],
        losses: &mut [f32],
    ) -> f64 {
        assert!([inputs.len(), targets.len(), losses.len()] == [pass.tokens(); 3], "one target and loss per input");
        self.upload_tokens(backend, inputs, targets);
        self.upload_first(backend, first);
        self.forward(backend, pass);
        self.losses(backend, pass);
        self.sum_losses(backend, losses)
    }

    /// Consecutive parts of `tokens` tokens, as few as the logits' chunk allows and as long as each other.
    pub(super) fn chunks(&self, tokens: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = tokens.div_ceil(self.work.chunk);
        let start = move |part: usize| part * tokens / count;
        (0..count).map(move |part| (start(part), start(part + 1) - start(part)))
    }

    pub(super) fn cross_entropy(
        &self,
        backend: &mut dyn Backend,
        logits: Span,
        from: usize,
        count: usize,
        gradient: Option<f32>,
    ) {
        let part = |span: Span| span.part(4 * from, 4 * count);
        let (targets, losses) = (part(self.work.targets), part(self.work.losses));
        backend.cross_entropy(logits, targets, losses, self.settings.model.vocab, gradient);
    }
}
