//! What the layers of a block are given: a backend, the model, and the rows of one micro-batch.

use super::{AdapterRows, Batch, Model};
use crate::backend::{AttentionShape, Backend, Rotation};
use crate::memory::Span;

/// One batch or micro-batch on its way through layers.
pub(super) struct Context<'a> {
    pub backend: &'a mut dyn Backend,
    pub model: &'a Model,
    pub batch: Batch,
}

impl Context<'_> {
    /// The same for the rows that an adapter is added to, and the number of the first of them.
    ///
    /// # Panics
    /// If the batch cannot be divided so.
    pub fn rows_of(&mut self, rows: AdapterRows) -> (Context<'_>, usize) {
        let (batch, part) = (self.batch, rows.of(self.batch.sequences));
        let from = part.start * batch.queries;
        let batch = Batch { sequences: part.len(), from: batch.from + from, ..batch };
        (Context { backend: &mut *self.backend, model: self.model, batch }, from)
    }

    /// As many rows as the batch has tokens from row `from` of `x` on, of `width` features.
    pub fn part(&self, x: Span, from: usize, width: usize) -> Span {
        self.model.rows(x, from, self.batch.tokens(), width)
    }

    /// Rows of an activation of `width` features that is as long as the batch.
    pub fn batch_rows(&self, span: Span, width: usize) -> Span {
        self.model.rows(span, self.batch.from, self.batch.tokens(), width)
    }

    /// Rows of an activation of `width` features that is as long as a micro-batch.
    pub fn micro_rows(&self, span: Span, width: usize) -> Span {
        self.model.rows(span, 0, self.batch.tokens(), width)
    }

    /// Rows of `width` features of what a block computes.
    pub fn block_rows(&self, span: Span, width: usize) -> Span {
        self.model.rows(span, self.first_kept_row(), self.batch.tokens(), width)
    }

    /// `count` float32 numbers a token of what a block computes.
    pub fn block_floats(&self, span: Span, count: usize) -> Span {
        span.part(4 * self.first_kept_row() * count, 4 * self.batch.tokens() * count)
    }

    /// The first row of the micro-batch in what blocks compute.
    fn first_kept_row(&self) -> usize {
        if self.model.acts.kept { self.batch.from } else { 0 }
    }

    pub fn attention_shape(&self) -> AttentionShape {
        let (config, batch) = (&self.model.settings.model, self.batch);
        AttentionShape {
            batch: batch.sequences,
            queries: batch.queries,
            start: batch.start,
            capacity: batch.start + batch.queries,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim(),
        }
    }

    /// Where the segments of rows begin, if a row may hold several.
    pub fn segment_start(&self) -> Option<Span> {
        let starts = self.model.acts.segment_start;
        let known = !starts.is_none() && !self.batch.cached();
        known.then(|| starts.part(4 * self.batch.from, 4 * self.batch.tokens()))
    }

    /// Rotates `heads` heads a token by their positions, or back. Without a prefix positions go on counting through a row of
    /// several segments, because rotary embeddings make attention depend on their differences alone. A prefix's keys are not
    /// rotated: positions are then counted in each segment, and begin after the prefix.
    pub fn rope(&mut self, x: Span, heads: usize, inverse: bool) {
        let (head_dim, prefix) = (self.model.settings.model.head_dim(), self.model.settings.prefix_length());
        let start = prefix + self.batch.start;
        let rotation = Rotation { heads, head_dim, queries: self.batch.queries, start, inverse };
        let segment_start = self.segment_start().filter(|_| prefix > 0);
        self.backend.rope(x, self.model.acts.rope, rotation, segment_start);
    }

    /// Quantizes the input of a product in place, if the model has its activations so.
    pub fn quantize(&mut self, x: Span, features: usize) {
        if let Some(code) = self.model.settings.activations.quant.code() {
            self.backend.quantize_activations(x, features, self.batch.queries, code);
        }
    }
}
