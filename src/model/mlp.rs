//! The MLP of a block: norm, SwiGLU, down projection, and their backward.

use super::context::Context;
use super::grad_sink::GradSink;
use super::linear::{forward_joined, grad_weights_joined};
use super::{BlockActs, Bottleneck, Linear, Norm};
use crate::backend::Accumulate;
use crate::memory::Span;

/// `x + down(silu(gate(n)) * up(n))` with `n = norm(x)`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Mlp {
    pub norm: Norm,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
    /// What adapters add beside all of it.
    pub bottlenecks: Vec<Bottleneck>,
}

impl Mlp {
    /// Up to the input of the down projection: all that backward reads.
    pub(super) fn hidden(&self, cx: &mut Context<'_>, acts: &BlockActs) {
        let config = &cx.model.settings.model;
        let (h, f) = (config.hidden, config.intermediate);
        let (x, n) = (cx.block_rows(acts.resid_mid, h), cx.block_rows(acts.mlp_norm_out, h));
        self.norm.forward(cx, x, n, cx.block_floats(acts.mlp_inv_rms, 1));
        cx.quantize(n, h);
        let (gate, up, act) = (cx.block_rows(acts.gate, f), cx.block_rows(acts.up, f), cx.block_rows(acts.act, f));
        forward_joined(cx, n, [(&self.gate, gate), (&self.up, up)]);
        cx.backend.swiglu(gate, up, act);
        cx.quantize(act, f);
    }

    /// The rest: the block's output `[M, hidden]`.
    pub(super) fn output(&self, cx: &mut Context<'_>, acts: &BlockActs, out: Span) {
        let config = &cx.model.settings.model;
        let (h, f) = (config.hidden, config.intermediate);
        let (mid, act) = (cx.block_rows(acts.resid_mid, h), cx.block_rows(acts.act, f));
        self.down.forward_onto(cx, act, mid, out);
        let n = cx.block_rows(acts.mlp_norm_out, h);
        self.bottlenecks.iter().for_each(|bottleneck| bottleneck.forward(cx, n, out));
    }

    /// From the gradient `dx` of the block's output to that of `resid_mid`, in place. `gate` and `up` become their
    /// gradients.
    pub(super) fn backward(&self, cx: &mut Context<'_>, acts: &BlockActs, dx: Span, sink: &mut GradSink<'_, '_>) {
        let config = &cx.model.settings.model;
        let (h, f) = (config.hidden, config.intermediate);
        let grads = &cx.model.acts.grads;
        let (dn, dact) = (cx.micro_rows(grads.dn, h), cx.micro_rows(grads.dact, f));
        let (gate, up, act) = (cx.block_rows(acts.gate, f), cx.block_rows(acts.up, f), cx.block_rows(acts.act, f));
        self.down.backward(cx, (dx, act), (dact, Accumulate::No), sink);
        cx.backend.swiglu_grad(gate, up, dact);
        let n = cx.block_rows(acts.mlp_norm_out, h);
        self.gate.grad_input(cx, (gate, n), (dn, Accumulate::No), sink);
        self.up.grad_input(cx, (up, n), (dn, Accumulate::Yes), sink);
        grad_weights_joined(cx, n, [(&self.gate, gate), (&self.up, up)], sink);
        self.bottlenecks.iter().for_each(|bottleneck| bottleneck.backward(cx, (dx, n), dn, sink));
        let (x, inv_rms) = (cx.block_rows(acts.resid_mid, h), cx.block_floats(acts.mlp_inv_rms, 1));
        self.norm.backward(cx, (dn, x, inv_rms), dx, sink);
    }
}
