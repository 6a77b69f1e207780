//! Forward: tokens to the head's input, and the chunked loss.

use super::{LayerParams, LayerWork, Model};
use crate::backend::{AttentionShape, Backend, Rotation, Store};
use crate::config::ActivationQuant;
use crate::memory::Span;
use zerocopy::IntoBytes;

/// Shape of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Sequences.
    pub batch: usize,
    /// Tokens per sequence.
    pub queries: usize,
    /// Position of the first token; not zero only for one sequence whose earlier keys are cached.
    pub start: usize,
    /// Whether keys and values go to the caches of sampling; nothing is then kept for backward.
    pub cached: bool,
}

impl Pass {
    /// A pass over whole sequences.
    pub fn whole(batch: usize, queries: usize) -> Self {
        Self { batch, queries, start: 0, cached: false }
    }

    /// T
    pub fn tokens(&self) -> usize {
        self.batch * self.queries
    }
}

impl Model {
    /// Rows `from .. from + count` of an activation of `width` features.
    pub(super) fn rows(&self, span: Span, from: usize, count: usize, width: usize) -> Span {
        let row = width.next_multiple_of(self.work.row_multiple) * self.work.activation_bytes;
        span.part(from * row, count * row)
    }

    pub(super) fn attention_shape(&self, pass: Pass) -> AttentionShape {
        let model = &self.config.model;
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
    pub(super) fn first_keys(&self, pass: Pass) -> Option<Span> {
        let known = !self.work.first.is_none() && !pass.cached;
        known.then(|| self.work.first.head(4 * pass.tokens()))
    }

    pub(super) fn rotation(&self, pass: Pass, heads: usize, inverse: bool) -> Rotation {
        let head_dim = self.config.model.head_dim();
        Rotation { heads, head_dim, queries: pass.queries, start: pass.start, inverse }
    }

    /// From `work.inputs` to `work.xn`, the head's input.
    ///
    /// # Panics
    /// If the pass has more tokens than were planned, or several sequences with `start > 0`.
    pub fn forward(&self, backend: &mut dyn Backend, pass: Pass) {
        assert!(pass.tokens() <= self.work.tokens, "{} tokens, planned for {}", pass.tokens(), self.work.tokens);
        assert!((pass.start == 0 && !pass.cached) || pass.batch == 1, "a cache belongs to one sequence");
        let (t, h) = (pass.tokens(), self.config.model.hidden);
        let first = self.rows(self.stream(0), 0, t, h);
        backend.embedding(self.work.inputs.head(4 * t), &self.params.embedding.weight, first);
        for (l, (params, work)) in self.params.layers.iter().zip(&self.work.layers).enumerate() {
            self.attention_block(backend, pass, params, work);
            self.activation(backend, pass, params, work);
            self.feed_forward_output(backend, pass, params, work, self.stream(l + 1));
        }
        let eps = self.config.model.norm_eps as f32;
        backend.rms_norm(
            self.rows(self.work.x, 0, t, h),
            self.params.final_norm.weight.data,
            self.rows(self.work.xn, 0, t, h),
            self.work.inv_rms.head(4 * t),
            eps,
        );
    }

    /// The residual stream before block `l`.
    pub(super) fn stream(&self, l: usize) -> Span {
        self.work.layers.get(l).map_or(self.work.x, |work| work.x)
    }

    pub(super) fn quantize(&self, backend: &mut dyn Backend, x: Span, features: usize) {
        if self.config.activations.quant == ActivationQuant::Int4 {
            backend.quantize_activations(x, features);
        }
    }

    /// From a block's input, all that its backward reads; `forward` goes on to the block's output.
    pub(super) fn attention_block(
        &self,
        backend: &mut dyn Backend,
        pass: Pass,
        params: &LayerParams,
        work: &LayerWork,
    ) {
        let model = &self.config.model;
        let (t, h, width, kv) = (pass.tokens(), model.hidden, model.query_width(), model.kv_width());
        let (x, xn) = (self.rows(work.x, 0, t, h), self.rows(work.xn1, 0, t, h));
        backend.rms_norm(x, params.attention_norm.weight.data, xn, work.inv_rms1.head(4 * t), model.norm_eps as f32);
        self.quantize(backend, xn, h);
        let q = self.rows(work.q, 0, t, width);
        let (all_k, all_v) = if pass.cached { (work.cache_k, work.cache_v) } else { (work.k, work.v) };
        let (k, v) = (self.rows(all_k, pass.start, t, kv), self.rows(all_v, pass.start, t, kv));
        // Where heads are normed, backward needs them as they were before.
        let (plain_q, plain_k) = match params.head_norms {
            Some(_) => (self.rows(work.plain_q, 0, t, width), self.rows(work.plain_k, 0, t, kv)),
            None => (q, k),
        };
        backend.linear(xn, &params.query.weight, plain_q, Store::Overwrite);
        backend.linear(xn, &params.key.weight, plain_k, Store::Overwrite);
        backend.linear(xn, &params.value.weight, v, Store::Overwrite);
        if let Some(biases) = &params.biases {
            for (x, bias) in [plain_q, plain_k, v].into_iter().zip(biases) {
                backend.add_bias(x, bias.weight.data, bias.weight.geometry.cols);
            }
        }
        if let Some([query, key]) = &params.head_norms {
            let eps = model.norm_eps as f32;
            let (inv_q, inv_k) = self.head_rms(work, t);
            backend.rms_norm(plain_q, query.weight.data, q, inv_q, eps);
            backend.rms_norm(plain_k, key.weight.data, k, inv_k, eps);
        }
        backend.rope(q, self.work.rope, self.rotation(pass, model.heads, false));
        backend.rope(k, self.work.rope, self.rotation(pass, model.kv_heads, false));
        let seen = pass.start + t;
        let (keys, values) = (self.rows(all_k, 0, seen, kv), self.rows(all_v, 0, seen, kv));
        let heads = self.rows(work.heads, 0, t, width);
        let lse = work.lse.head(4 * t * model.heads);
        backend.attention(q, keys, values, heads, lse, self.first_keys(pass), self.attention_shape(pass));
        self.quantize(backend, heads, width);
        let mid = self.rows(work.mid, 0, t, h);
        backend.copy(x, mid);
        backend.linear(heads, &params.output.weight, mid, Store::Accumulate);
    }

    /// 1/rms of every query head and every key head of `t` tokens.
    pub(super) fn head_rms(&self, work: &LayerWork, t: usize) -> (Span, Span) {
        let model = &self.config.model;
        (work.inv_rms_q.head(4 * t * model.heads), work.inv_rms_k.head(4 * t * model.kv_heads))
    }

    /// The feed-forward block up to its activation, of which backward reads all.
    pub(super) fn activation(&self, backend: &mut dyn Backend, pass: Pass, params: &LayerParams, work: &LayerWork) {
        let model = &self.config.model;
        let (t, h, f) = (pass.tokens(), model.hidden, model.intermediate);
        let (mid, xn) = (self.rows(work.mid, 0, t, h), self.rows(work.xn2, 0, t, h));
        let gain = params.feed_forward_norm.weight.data;
        backend.rms_norm(mid, gain, xn, work.inv_rms2.head(4 * t), model.norm_eps as f32);
        self.quantize(backend, xn, h);
        let (gate, up) = (self.rows(work.gate, 0, t, f), self.rows(work.up, 0, t, f));
        let act = self.rows(work.act, 0, t, f);
        backend.linear(xn, &params.gate.weight, gate, Store::Overwrite);
        backend.linear(xn, &params.up.weight, up, Store::Overwrite);
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
        let (t, h, f) = (pass.tokens(), self.config.model.hidden, self.config.model.intermediate);
        let (mid, act) = (self.rows(work.mid, 0, t, h), self.rows(work.act, 0, t, f));
        let out = self.rows(out, 0, t, h);
        backend.copy(mid, out);
        backend.linear(act, &params.down.weight, out, Store::Accumulate);
    }

    /// The logits of `count` tokens from token `from` on, in `work.logits`.
    ///
    /// # Panics
    /// If `count` is larger than `work.chunk`.
    pub fn logits(&self, backend: &mut dyn Backend, from: usize, count: usize) -> Span {
        let model = &self.config.model;
        let logits = self.rows(self.work.logits, 0, count, model.vocab);
        let xn = self.rows(self.work.xn, from, count, model.hidden);
        backend.linear(xn, &self.params.head().weight, logits, Store::Overwrite);
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

    /// Consecutive parts of `tokens` tokens, each no longer than the logits' chunk.
    pub(super) fn chunks(&self, tokens: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let chunk = self.work.chunk;
        (0..tokens).step_by(chunk).map(move |from| (from, chunk.min(tokens - from)))
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
        backend.cross_entropy(logits, targets, losses, self.config.model.vocab, gradient);
    }
}
