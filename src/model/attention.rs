//! The attention of a block: norm, projections, rotary embedding, heads, output projection, and their backward.

use super::context::Context;
use super::grad_sink::GradSink;
use super::linear::{forward_joined, grad_weights_joined};
use super::{ActivationQuant, BlockActs, Bottleneck, Linear, Norm, Prefix};
use crate::backend::{Accumulate, AttentionArgs, AttentionGradArgs};
use crate::memory::Span;

/// `x + output(heads(norm(x)))`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Attention {
    pub norm: Norm,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    /// Of query heads and of key heads, where the model has them.
    pub head_norms: Option<[Norm; 2]>,
    pub output: Linear,
    /// What sequences see before their own keys and values: one, or that of each expert.
    pub prefixes: Vec<Prefix>,
    /// What adapters add beside all of it.
    pub bottlenecks: Vec<Bottleneck>,
}

impl Attention {
    /// From a block's input `x` to `resid_mid`.
    pub(super) fn forward(&self, cx: &mut Context<'_>, acts: &BlockActs, x: Span) {
        let config = &cx.model.settings.model;
        let (h, width, kv, batch) = (config.hidden, config.query_width(), config.kv_width(), cx.batch);
        let n = cx.block_rows(acts.attn_norm_out, h);
        self.norm.forward(cx, x, n, cx.block_floats(acts.attn_inv_rms, 1));
        cx.quantize(n, h);
        let q = cx.block_rows(acts.q, width);
        // Keys and values of this batch, and all that its queries see.
        let of = |span: Span| match batch.cached() {
            true => {
                let (start, t) = (batch.start, batch.tokens());
                (cx.model.rows(span, start, t, kv), cx.model.rows(span, 0, start + t, kv))
            }
            false => (cx.block_rows(span, kv), cx.block_rows(span, kv)),
        };
        let ((k, keys), (v, values)) = (of(acts.k), of(acts.v));
        // Where heads are normed, backward needs them as they were before.
        let (plain_q, plain_k) = match self.head_norms {
            Some(_) => (cx.block_rows(acts.plain_q, width), cx.block_rows(acts.plain_k, kv)),
            None => (q, k),
        };
        forward_joined(cx, n, [(&self.query, plain_q), (&self.key, plain_k), (&self.value, v)]);
        if let Some([query, key]) = &self.head_norms {
            let [inv_q, inv_k] = head_rms(cx, acts);
            query.forward(cx, plain_q, q, inv_q);
            key.forward(cx, plain_k, k, inv_k);
        }
        cx.rope(q, config.heads, false);
        cx.rope(k, config.kv_heads, false);
        let heads = cx.block_rows(acts.attn_out, width);
        let lse = cx.block_floats(acts.lse, config.heads);
        let (segment_start, shape) = (cx.segment_start(), cx.attention_shape());
        cx.backend.attention(&AttentionArgs { q, k: keys, v: values, out: heads, lse, segment_start, shape });
        self.prefixes.iter().for_each(|prefix| prefix.forward(cx, q, heads, lse));
        cx.quantize(heads, width);
        let mid = cx.block_rows(acts.resid_mid, h);
        self.output.forward_onto(cx, heads, x, mid);
        self.bottlenecks.iter().for_each(|bottleneck| bottleneck.forward(cx, n, mid));
    }

    /// From the gradient `dx` of `resid_mid` to that of the block's input `x`, in place.
    pub(super) fn backward(
        &self,
        cx: &mut Context<'_>,
        acts: &BlockActs,
        (x, dx): (Span, Span),
        sink: &mut GradSink<'_, '_>,
    ) {
        let config = &cx.model.settings.model;
        let (h, width) = (config.hidden, config.query_width());
        let grads = &cx.model.acts.grads;
        let (dn, dheads) = (cx.micro_rows(grads.dn, h), cx.micro_rows(grads.dn, width));
        let heads = cx.block_rows(acts.attn_out, width);
        self.output.backward(cx, (dx, heads), (dheads, Accumulate::No), sink);
        let [dq, dk, dv] = self.heads_backward(cx, acts, dheads, sink);
        let projections = [(&self.query, dq), (&self.key, dk), (&self.value, dv)];
        projections.into_iter().for_each(|(linear, dy)| linear.grad_bias(cx, dy, sink));
        let n = cx.block_rows(acts.attn_norm_out, h);
        let mut accumulate = Accumulate::No;
        for (linear, dy) in projections {
            linear.grad_input(cx, (dy, n), (dn, accumulate), sink);
            accumulate = Accumulate::Yes;
        }
        grad_weights_joined(cx, n, projections, sink);
        self.bottlenecks.iter().for_each(|bottleneck| bottleneck.backward(cx, (dx, n), dn, sink));
        let inv_rms = cx.block_floats(acts.attn_inv_rms, 1);
        self.norm.backward(cx, (dn, x, inv_rms), dx, sink);
    }

    /// From the gradient of the heads' output to those of the projections' outputs.
    fn heads_backward(
        &self,
        cx: &mut Context<'_>,
        acts: &BlockActs,
        dheads: Span,
        sink: &mut GradSink<'_, '_>,
    ) -> [Span; 3] {
        let config = &cx.model.settings.model;
        let (width, kv) = (config.query_width(), config.kv_width());
        let grads = &cx.model.acts.grads;
        let dq = cx.micro_rows(grads.dq, width);
        let (dk, dv) = (cx.micro_rows(grads.dk, kv), cx.micro_rows(grads.dv, kv));
        let q = cx.block_rows(acts.q, width);
        let (k, v) = (cx.block_rows(acts.k, kv), cx.block_rows(acts.v, kv));
        let lse = cx.block_floats(acts.lse, config.heads);
        // Where there is a backward there are no experts.
        let prefix = self.prefixes.first();
        // Four-bit activations replaced the output that forward computed.
        let exact = cx.model.settings.activations.quant == ActivationQuant::None;
        let out = (exact && prefix.is_none()).then_some(cx.block_rows(acts.attn_out, width));
        let (segment_start, shape) = (cx.segment_start(), cx.attention_shape());
        let dout = dheads;
        let delta = prefix.map(|prefix| prefix.delta(cx, q, lse, dheads));
        // What a prefix adds to dq is for rotated queries too.
        let rotated_by = prefix.is_none().then_some(cx.model.acts.rope);
        let args = AttentionGradArgs { q, k, v, out, lse, dout, dq, dk, dv, delta, rotated_by, segment_start, shape };
        cx.backend.attention_grad(&args);
        if let (Some(prefix), Some(delta)) = (prefix, delta) {
            prefix.backward(cx, (q, lse, dheads, delta), dq, sink);
            cx.rope(dq, config.heads, true);
            cx.rope(dk, config.kv_heads, true);
        }
        let Some([query, key]) = &self.head_norms else { return [dq, dk, dv] };
        let [inv_q, inv_k] = head_rms(cx, acts);
        let (plain_q, plain_k) = (cx.block_rows(acts.plain_q, width), cx.block_rows(acts.plain_k, kv));
        // The rotated queries and keys have served; their buffers take the gradients before the norms.
        cx.backend.zero(q);
        query.backward(cx, (dq, plain_q, inv_q), q, sink);
        cx.backend.zero(k);
        key.backward(cx, (dk, plain_k, inv_k), k, sink);
        [q, k, dv]
    }

    /// Whether a pass over the micro-batches forms the gradient of one of the matrices.
    pub(super) fn is_wanted(&self, sink: &GradSink<'_, '_>) -> bool {
        [&self.query, &self.key, &self.value, &self.output].iter().any(|linear| sink.grad(&linear.weight).is_some())
    }
}

/// 1/rms of every query head and of every key head.
fn head_rms(cx: &Context<'_>, acts: &BlockActs) -> [Span; 2] {
    let config = &cx.model.settings.model;
    [cx.block_floats(acts.inv_rms_q, config.heads), cx.block_floats(acts.inv_rms_k, config.kv_heads)]
}
