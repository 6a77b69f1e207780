//! What adapters add to the head: `logits += f B (A x)`, of a chunk of tokens at a time. Their gradients are formed with that
//! of the head's input, and handed over with the head's.

use super::context::Context;
use super::grad_sink::GradSink;
use super::{AdapterRows, Apply, Batch, LowRankPair, Model};
use crate::backend::{Accumulate, Backend, Param};
use crate::memory::Span;

impl Model {
    /// Logits from the head's input `xn`, both of `count` tokens of a batch from token `from` on.
    pub(super) fn head_forward(
        &self,
        backend: &mut dyn Backend,
        batch: Batch,
        (from, count): (usize, usize),
        (xn, logits): (Span, Span),
    ) {
        let (weight, config) = (&self.params.head_matrix().weight, &self.settings.model);
        self.product(backend, batch, xn, (weight, logits), Accumulate::No);
        for pair in &self.params.head_pairs {
            let rows = pair.rows.of(batch.tokens());
            let (first, end) = (rows.start.max(from), rows.end.min(from + count));
            if first < end {
                let part = |span, width| self.rows(span, first - from, end - first, width);
                let (x, y) = (part(xn, config.hidden), part(logits, config.vocab));
                let pair = LowRankPair { rows: AdapterRows::All, ..*pair };
                pair.forward(&mut self.chunk(backend, batch, (first, end - first)), (weight, x), y);
            }
        }
    }

    /// Sets `dxn` from the gradient of logits, and forms those of the pairs: all for the same tokens.
    pub(super) fn head_input_grad(
        &self,
        backend: &mut dyn Backend,
        batch: Batch,
        (from, count): (usize, usize),
        (dlogits, xn, dxn): (Span, Span, Span),
        apply: &mut Apply<'_>,
    ) {
        let Param { id, weight, .. } = self.params.head_matrix();
        let chunk = Batch { from, ..batch };
        self.product_grad_input(backend, chunk, dlogits, (weight, *id), (dxn, Accumulate::No));
        for pair in &self.params.head_pairs {
            // Handed over when backward begins: what is kept until then is complete after the last chunk.
            let mut sink = GradSink::outside(from == 0, false, &mut *apply);
            let cx = &mut self.chunk(backend, batch, (from, count));
            pair.backward(cx, (weight, dlogits, xn), dxn, &mut sink);
        }
    }

    fn chunk<'a>(&'a self, backend: &'a mut dyn Backend, batch: Batch, (from, count): (usize, usize)) -> Context<'a> {
        Context { backend, model: self, batch: Batch { sequences: 1, queries: count, from, ..batch } }
    }

    /// The tensors beside the head with their gradients.
    pub(super) fn head_pair_grads(&self) -> impl Iterator<Item = (&Param, Span)> {
        let params = self.params.head_pairs.iter().flat_map(LowRankPair::params);
        params.map(|param| (param, self.acts.grads.of_adapter(param.id)))
    }
}
