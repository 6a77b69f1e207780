//! A block: attention and MLP, forward and backward over the micro-batches of a batch.

use super::context::Context;
use super::grad_sink::{Apply, GradSink};
use super::spec::{BlockParam, ParamKind, ParamSpec};
use super::{Attention, Batch, BlockActs, Int4Rows, Linear, Mlp, Model, Norm, Purpose};
use crate::backend::{Backend, Param, packed_bytes};
use crate::memory::Span;
use crate::quant::{RngKey, RngUse};

/// The layers of one block.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Block {
    pub attention: Attention,
    pub mlp: Mlp,
}

impl Block {
    /// Arranges the parameters of one block, given with their specs.
    pub(super) fn arrange(specs: &[ParamSpec], params: &[Param]) -> Self {
        use BlockParam as P;
        let of = |wanted| {
            let is_it = |spec: &ParamSpec| matches!(spec.kind, ParamKind::Block(_, param) if param == wanted);
            specs.iter().position(is_it).map(|i| params[i])
        };
        let must = |param| of(param).expect("every block has it");
        let linear = |weight, bias: Option<P>| Linear { bias: bias.and_then(of), ..Linear::without_bias(must(weight)) };
        let norm = |gain| Norm { gain: must(gain) };
        Self {
            attention: Attention {
                norm: norm(P::AttentionNorm),
                query: linear(P::Query, Some(P::QueryBias)),
                key: linear(P::Key, Some(P::KeyBias)),
                value: linear(P::Value, Some(P::ValueBias)),
                head_norms: of(P::QueryNorm).map(|query| [Norm { gain: query }, norm(P::KeyNorm)]),
                output: linear(P::Output, None),
                prefixes: Vec::new(),
                bottlenecks: Vec::new(),
            },
            mlp: Mlp {
                norm: norm(P::MlpNorm),
                gate: linear(P::Gate, None),
                up: linear(P::Up, None),
                down: linear(P::Down, None),
                bottlenecks: Vec::new(),
            },
        }
    }

    /// One of its seven matrices.
    ///
    /// # Panics
    /// If it is none.
    pub(super) fn linear_mut(&mut self, matrix: BlockParam) -> &mut Linear {
        match matrix {
            BlockParam::Query => &mut self.attention.query,
            BlockParam::Key => &mut self.attention.key,
            BlockParam::Value => &mut self.attention.value,
            BlockParam::Output => &mut self.attention.output,
            BlockParam::Gate => &mut self.mlp.gate,
            BlockParam::Up => &mut self.mlp.up,
            BlockParam::Down => &mut self.mlp.down,
            other => panic!("{other:?} is no matrix of a block"),
        }
    }

    /// From a micro-batch of the block's input `x` to `out`.
    fn forward(&self, cx: &mut Context<'_>, acts: &BlockActs, x: Span, out: Span) {
        self.attention.forward(cx, acts, x);
        self.mlp.hidden(cx, acts);
        self.mlp.output(cx, acts, out);
    }
}

impl Model {
    /// Block `l` over all micro-batches: from the residual stream before it to the one after it.
    pub(super) fn block_forward(&self, backend: &mut dyn Backend, batch: Batch, l: usize) {
        let (block, acts, h) = (&self.params.blocks[l], &self.acts.blocks[l], self.settings.model.hidden);
        for batch in batch.micro_batches(self.acts.micro_tokens) {
            let cx = &mut Context { backend: &mut *backend, model: self, batch };
            let x = cx.batch_rows(acts.x, h);
            if let (Some(packed), Purpose::Step(step), true) = (acts.int4_x, batch.purpose, l >= self.lowest) {
                self.pack_input(cx, x, packed, l, step);
            }
            let out = cx.batch_rows(self.residual(l + 1), h);
            block.forward(cx, acts, x, out);
        }
    }

    fn pack_input(&self, cx: &mut Context<'_>, x: Span, packed: Int4Rows, l: usize, step: u32) {
        let key = RngKey { seed: self.settings.seed, step, tensor: l as u32, usage: RngUse::ActivationPack };
        let packed = self.packed_rows(packed, cx.batch);
        let first = cx.batch.before + cx.batch.from;
        cx.backend.pack_rows(x, packed.codes, packed.scales, self.settings.model.hidden, first, &key);
    }

    /// A micro-batch's part of a packed input.
    fn packed_rows(&self, packed: Int4Rows, batch: Batch) -> Int4Rows {
        let (codes, scales) = packed_bytes(1, self.settings.model.hidden);
        let (from, t) = (batch.from, batch.tokens());
        Int4Rows {
            codes: packed.codes.part(from * codes, t * codes),
            scales: packed.scales.part(from * scales, t * scales),
        }
    }

    /// The backward of block `l` over all micro-batches, as often as its gradients' buffers ask for: from the gradient of
    /// the residual stream after the block to that before it, in place.
    pub(super) fn block_backward(&self, backend: &mut dyn Backend, batch: Batch, l: usize, apply: &mut Apply<'_>) {
        let (acts, grads) = (&self.acts.blocks[l], &self.acts.grads);
        // An update must not be seen by the passes that follow it.
        let block = match self.frozen.get(l) {
            Some(frozen) => {
                self.freeze(backend, l);
                frozen
            }
            None => &self.params.blocks[l],
        };
        for (i, pass) in grads.passes.iter().enumerate() {
            let last_pass = i + 1 == grads.passes.len();
            for micro in batch.micro_batches(self.acts.micro_tokens) {
                let cx = &mut Context { backend: &mut *backend, model: self, batch: micro };
                let x = self.block_input(cx, acts);
                if i > 0 || !self.acts.kept {
                    // With one pass the block's weights are still those of forward: they change when their
                    // gradients are applied.
                    block.attention.forward(cx, acts, x);
                    block.mlp.hidden(cx, acts);
                }
                let dx = self.residual_grad(cx, last_pass);
                let mut sink = GradSink {
                    params: self.params.of_block(l),
                    specs: self.params.specs_of_block(&self.specs, l),
                    grads: pass,
                    discarded: grads.discarded,
                    first: micro.from == 0,
                    last: micro.from + micro.tokens() == batch.tokens(),
                    apply: &mut *apply,
                };
                block.mlp.backward(cx, acts, dx, &mut sink);
                if last_pass || block.attention.is_wanted(&sink) {
                    block.attention.backward(cx, acts, (x, dx), &mut sink);
                }
            }
            apply.end(backend);
        }
    }

    /// Copies the weights of block `l` to where its passes read them.
    fn freeze(&self, backend: &mut dyn Backend, l: usize) {
        for (param, copies) in self.params.of_block(l).iter().zip(&self.acts.grads.frozen_copy) {
            let weight = &param.weight;
            for (from, &to) in [weight.data, weight.scales, weight.offsets].into_iter().zip(copies) {
                if !from.is_none() {
                    backend.copy(from, to);
                }
            }
        }
    }

    /// A micro-batch of a block's input, as backward sees it.
    fn block_input(&self, cx: &mut Context<'_>, acts: &BlockActs) -> Span {
        let h = self.settings.model.hidden;
        let Some(packed) = acts.int4_x else { return cx.batch_rows(acts.x, h) };
        let packed = self.packed_rows(packed, cx.batch);
        let x = cx.micro_rows(self.acts.unpacked, h);
        cx.backend.unpack_rows(packed.codes, packed.scales, x, h);
        x
    }

    /// A micro-batch of the residual stream's gradient, to be replaced by that below the block; before the last pass a
    /// copy.
    fn residual_grad(&self, cx: &mut Context<'_>, last_pass: bool) -> Span {
        let h = self.settings.model.hidden;
        let dx = cx.batch_rows(self.acts.grads.dx, h);
        if last_pass {
            return dx;
        }
        let scratch = cx.micro_rows(self.acts.grads.dx_scratch, h);
        cx.backend.copy(dx, scratch);
        scratch
    }
}
