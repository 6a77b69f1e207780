//! The head: logits a chunk of tokens at a time, losses, and the gradients that begin backward.

use super::{Apply, Batch, Model, ParamKind};
use crate::backend::{Accumulate, Backend, Param};
use crate::memory::Span;
use zerocopy::IntoBytes;

impl Model {
    /// The logits of `count` tokens of a batch from token `from` on, in `acts.logits`.
    ///
    /// # Panics
    /// If `count` is larger than `acts.chunk`.
    pub fn logits(&self, backend: &mut dyn Backend, batch: Batch, (from, count): (usize, usize)) -> Span {
        self.logits_in(backend, self.acts.logits, batch, (from, count))
    }

    /// The same in another buffer.
    pub(super) fn logits_in(
        &self,
        backend: &mut dyn Backend,
        buffer: Span,
        batch: Batch,
        (from, count): (usize, usize),
    ) -> Span {
        let config = &self.settings.model;
        let logits = self.rows(buffer, 0, count, config.vocab);
        let xn = self.rows(self.acts.xn, from, count, config.hidden);
        self.head_forward(backend, batch, (from, count), (xn, logits));
        logits
    }

    /// Losses of all tokens of a batch after [`Model::forward`], in `acts.losses`; targets are in `acts.targets`.
    pub fn losses(&self, backend: &mut dyn Backend, batch: Batch) {
        for (from, count) in self.chunks(batch.tokens()) {
            let logits = self.logits(backend, batch, (from, count));
            self.cross_entropy(backend, logits, from, count, None);
        }
    }

    /// Losses as [`Model::losses`], and the first part of backward, which changes no parameter: the gradient of the
    /// head's input (`grads.dxn`) and, if untied, of the head (`grads.head`), or those of what adapters add to it. `scale` multiplies all gradients.
    pub fn loss_and_head_grad(&self, backend: &mut dyn Backend, batch: Batch, scale: f32) {
        self.loss_and_passed_head_grad(backend, batch, scale, &mut |_: &mut dyn Backend, _: &Param, _: Span| {});
    }

    /// The same where several ranks add to the head's gradient; nothing is applied yet.
    pub fn loss_and_passed_head_grad(
        &self,
        backend: &mut dyn Backend,
        batch: Batch,
        scale: f32,
        apply: &mut Apply<'_>,
    ) {
        let (h, grads) = (self.settings.model.hidden, &self.acts.grads);
        let trained = self.params.head.is_some() && self.settings.trainable.contains(ParamKind::Head);
        for (from, count) in self.grad_chunks(backend, batch) {
            let logits = self.logits(backend, batch, (from, count));
            self.cross_entropy(backend, logits, from, count, Some(scale));
            let (xn, dxn) = (self.rows(self.acts.xn, from, count, h), self.rows(grads.dxn, from, count, h));
            self.head_input_grad(backend, batch, (from, count), (logits, xn, dxn), apply);
            if trained {
                let accumulate = if from == 0 { apply.begin(backend, grads.head) } else { Accumulate::Yes };
                self.head_grad(backend, batch, logits, grads.head, (from, count), accumulate);
            }
        }
        if trained {
            apply.pass_on(backend, grads.head);
        }
        for (_, grad) in self.head_pair_grads() {
            apply.pass_on(backend, grad);
        }
    }

    /// The gradient of the matrix that makes logits, of tokens `from .. from + count`.
    pub(super) fn head_grad(
        &self,
        backend: &mut dyn Backend,
        batch: Batch,
        dlogits: Span,
        grad: Span,
        (from, count): (usize, usize),
        accumulate: Accumulate,
    ) {
        let xn = self.rows(self.acts.xn, from, count, self.settings.model.hidden);
        let chunk = Batch { from, queries: batch.queries.min(count), ..batch };
        self.product_grad_weight(backend, chunk, self.params.head_matrix(), [dlogits, xn, grad], accumulate);
    }

    /// Puts a batch's tokens where [`Model::forward`] and the loss read them, each row one sample.
    pub fn upload_tokens(&self, backend: &mut dyn Backend, inputs: &[u32], targets: &[u32]) {
        backend.upload(inputs.as_bytes(), self.acts.inputs.head(4 * inputs.len()));
        backend.upload(targets.as_bytes(), self.acts.targets.head(4 * targets.len()));
        if !self.acts.segment_start.is_none() {
            backend.zero(self.acts.segment_start.head(4 * inputs.len()));
        }
    }

    /// After [`Model::upload_tokens`]: where in its row each token's segment begins; empty if each row is one sample.
    ///
    /// # Panics
    /// If several samples in a row were not planned for.
    pub fn upload_segments(&self, backend: &mut dyn Backend, segment_start: &[u32]) {
        if !segment_start.is_empty() {
            assert!(!self.acts.segment_start.is_none(), "planned for rows of one sample");
            backend.upload(segment_start.as_bytes(), self.acts.segment_start.head(4 * segment_start.len()));
        }
    }

    /// Sum of the losses that a batch of `losses.len()` tokens left, in nats; they are copied to `losses`.
    pub fn sum_losses(&self, backend: &dyn Backend, losses: &mut [f32]) -> f64 {
        self.read_losses(backend, losses);
        losses.iter().map(|&loss| f64::from(loss)).sum()
    }

    /// The losses that a batch of `losses.len()` tokens left, in nats.
    pub fn read_losses(&self, backend: &dyn Backend, losses: &mut [f32]) {
        backend.download(self.acts.losses.head(4 * losses.len()), losses.as_mut_bytes());
    }

    /// Sum of the losses of a batch, in nats, without training. `inputs`, `targets` and `losses` are `[T]`; `segment_start`
    /// as in
    /// [`Model::upload_segments`].
    ///
    /// # Panics
    /// If the slices are not as long as the batch, or that exceeds what was planned.
    pub fn evaluate(
        &self,
        backend: &mut dyn Backend,
        batch: Batch,
        inputs: &[u32],
        targets: &[u32],
        segment_start: &[u32],
        losses: &mut [f32],
    ) -> f64 {
        assert!([inputs.len(), targets.len(), losses.len()] == [batch.tokens(); 3], "one target and loss per input");
        self.upload_tokens(backend, inputs, targets);
        self.upload_segments(backend, segment_start);
        self.forward(backend, batch);
        self.losses(backend, batch);
        self.sum_losses(backend, losses)
    }

    /// Consecutive parts of `tokens` tokens, as few as the logits' chunk allows and as long as each other.
    pub(super) fn chunks(&self, tokens: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        parts(tokens, self.acts.chunk, 1)
    }

    /// [`Model::chunks`] of a batch whose head's gradient is formed, inside of its micro-batches where the gradient's bytes
    /// depend on how tokens are cut: ranks then come to those of one process with the same micro-batches.
    /// Where sums are made of blocks of a sequence, whole sequences, or whole blocks of one.
    pub(super) fn grad_chunks(
        &self,
        backend: &dyn Backend,
        batch: Batch,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        let chunk = self.acts.chunk;
        let (longest, unit) = match self.sum_block(backend) {
            Some(block) => (chunk, block),
            None if self.acts.sums_in_parts => (self.acts.micro_tokens, 1),
            None => (usize::MAX, 1),
        };
        let micro_batches = batch.micro_batches(longest);
        micro_batches.flat_map(move |micro| {
            parts(micro.tokens(), chunk, unit).map(move |(from, count)| (micro.from + from, count))
        })
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
        let (targets, losses) = (part(self.acts.targets), part(self.acts.losses));
        backend.cross_entropy(logits, targets, losses, self.settings.model.vocab, gradient);
    }
}

/// Consecutive parts of `tokens` tokens, as few as there may be of at most `longest`, each a multiple of `unit` (but the last)
/// and as long as each other up to that.
fn parts(tokens: usize, longest: usize, unit: usize) -> impl Iterator<Item = (usize, usize)> {
    let units = tokens.div_ceil(unit);
    let count = if tokens <= longest { 1 } else { units.div_ceil((longest / unit).max(1)) };
    let start = move |part: usize| (part * units / count * unit).min(tokens);
    (0..count).map(move |part| (start(part), start(part + 1) - start(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_tokens_and_begin_at_whole_units() {
        for (tokens, longest, unit) in
            [(1, 5, 1), (100, 33, 1), (100, 33, 32), (99, 100, 32), (31, 31, 32), (257, 96, 32)]
        {
            let parts: Vec<_> = parts(tokens, longest, unit).collect();
            let end = parts.iter().fold(0, |end, &(from, count)| {
                assert!(from == end && from.is_multiple_of(unit) && (1..=longest).contains(&count), "{parts:?}");
                from + count
            });
            assert_eq!(end, tokens);
            assert!(parts.len() <= tokens.div_ceil((longest / unit).max(1) * unit), "{parts:?}");
        }
    }
}
