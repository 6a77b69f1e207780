//! The token embedding, and what adapters add to its rows: `x = E[t] + f A^T B[t]`, with B looked up as E is.

use super::context::Context;
use super::grad_sink::GradSink;
use super::low_rank::scale;
use super::{AdapterRows, Params};
use crate::backend::{Accumulate, Param};
use crate::memory::Span;

/// One adapter's matrices beside the embedding.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingPair {
    /// A `[R, hidden]`
    pub a: Param,
    /// B `[vocab, R]`
    pub b: Param,
    /// The learned factor.
    pub scale: Option<Param>,
    /// What the product is multiplied by besides.
    pub factor: f32,
    /// Which rows of a batch it is added to.
    pub rows: AdapterRows,
}

impl Params {
    /// Sets `x` `[T, hidden]` to the embeddings of a batch.
    pub(super) fn embed(&self, cx: &mut Context<'_>, x: Span) {
        let tokens = cx.model.acts.inputs.head(4 * cx.batch.tokens());
        cx.backend.embedding(tokens, &self.embedding.weight, x);
        let longest = cx.model.acts.micro_tokens;
        for pair in &self.embedding_pairs {
            for batch in cx.batch.micro_batches(longest) {
                pair.forward(&mut Context { backend: &mut *cx.backend, batch, ..*cx });
            }
        }
    }
}

impl EmbeddingPair {
    /// Adds to the stream before the first block, of a micro-batch. At a factor of 0 nothing is touched.
    fn forward(&self, cx: &mut Context<'_>) {
        if self.factor == 0.0 {
            return;
        }
        let mut cx = cx.rows_of(self.rows).0;
        let x = cx.batch_rows(cx.model.residual(0), self.a.weight.shape.cols);
        let down = self.look_up(&mut cx);
        self.scale(&mut cx, down);
        cx.backend.linear_grad_input(down, &self.a.weight, x, Accumulate::Yes);
    }

    /// `B[t]` of a micro-batch.
    fn look_up(&self, cx: &mut Context<'_>) -> Span {
        let down = cx.micro_rows(cx.model.acts.low_rank.down, self.b.weight.shape.cols);
        cx.backend.embedding(self.tokens(cx), &self.b.weight, down);
        down
    }

    fn tokens(&self, cx: &Context<'_>) -> Span {
        cx.model.acts.inputs.part(4 * cx.batch.from, 4 * cx.batch.tokens())
    }

    fn scale(&self, cx: &mut Context<'_>, down: Span) {
        scale(cx, (down, self.b.weight.shape.cols), self.factor, self.scale.as_ref());
    }

    /// Forms the gradients of A, of B and of the factor from that of the stream before the first block.
    pub(super) fn backward(&self, cx: &mut Context<'_>, sink: &mut GradSink<'_, '_>) {
        let ([rank, hidden], grads) = ([self.b.weight.shape.cols, self.a.weight.shape.cols], &cx.model.acts.grads);
        let dx = cx.batch_rows(grads.dx, hidden);
        let [a_grad, b_grad] = [&self.a, &self.b].map(|param| grads.of_adapter(param.id));
        let scale_grad = self.scale.as_ref().map(|scale| grads.of_adapter(scale.id));
        let down = self.look_up(cx);
        let ddown = cx.micro_rows(cx.model.acts.low_rank.ddown, rank);
        cx.backend.linear(dx, &self.a.weight, ddown, Accumulate::No);
        let (of_a, of_b) = (sink.begin(cx, a_grad), sink.begin(cx, b_grad));
        if let Some(grad) = scale_grad {
            let accumulate = sink.begin(cx, grad);
            cx.backend.scale_grad(down, ddown, rank, self.factor, grad, accumulate);
        }
        self.scale(cx, down);
        cx.backend.linear_grad_weight(down, dx, a_grad, rank, hidden, of_a);
        self.scale(cx, ddown);
        if of_b == Accumulate::No {
            cx.backend.zero(b_grad);
        }
        cx.backend.embedding_grad(self.tokens(cx), ddown, b_grad, rank);
        sink.add_adapter(cx, &self.a, a_grad);
        sink.add_adapter(cx, &self.b, b_grad);
        if let (Some(scale), Some(grad)) = (&self.scale, scale_grad) {
            sink.add_adapter(cx, scale, grad);
        }
    }
}
