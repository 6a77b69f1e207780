//! A prefix: trained keys and values that every sequence sees before its own, in the attention of one block.

use super::context::Context;
use super::grad_sink::GradSink;
use super::{AdapterKind, AdapterParam, AdapterPart, AdapterSite, ParamKind, ParamSpec, Settings};
use crate::backend::{Param, PrefixArgs, PrefixGradArgs};
use crate::memory::Span;
use std::collections::HashMap;

/// The prefix of one block.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    /// Keys `[P, K D]`, not rotated.
    pub key: Param,
    /// Values `[P, K D]`
    pub value: Param,
    /// What keys and values are multiplied by, if that is learned.
    pub scales: Option<[Param; 2]>,
    /// Whether the prefix's weights are divided by their sum.
    pub compensate: bool,
    /// How much of what it changes is added.
    pub factor: f32,
}

impl Settings {
    /// Which of the adapters is the prefix that a text's positions begin after. There is one at most; multiplied by 0 it is
    /// none.
    fn prefix(&self) -> Option<usize> {
        self.adapters.iter().position(|used| used.config.kind == AdapterKind::Prefix && used.scale != 0.0)
    }

    /// Its keys, 0 without one.
    pub fn prefix_length(&self) -> usize {
        self.prefix().map_or(0, |number| self.adapters[number].config.length)
    }
}

impl Prefix {
    fn args(&self, cx: &Context<'_>, q: Span) -> PrefixArgs {
        PrefixArgs {
            q,
            key: self.key.weight.data,
            value: self.value.weight.data,
            scales: self.scales.map(|scales| scales.map(|scale| scale.weight.data)),
            compensate: self.compensate,
            shape: cx.attention_shape(),
        }
    }

    /// Brings the output of the heads and the logarithms of their sums from the text alone to text and prefix.
    pub(super) fn forward(&self, cx: &mut Context<'_>, q: Span, heads: Span, lse: Span) {
        let args = self.args(cx, q);
        cx.backend.prefix_attention(&args, heads, lse, self.factor);
    }

    /// What the text's attention needs of the prefix for its gradient.
    pub(super) fn delta(&self, cx: &mut Context<'_>, q: Span, lse: Span, dheads: Span) -> Span {
        let delta = cx.model.acts.grads.delta.head(lse.bytes);
        let args = self.args(cx, q);
        cx.backend.prefix_delta(&args, lse, dheads, delta);
        delta
    }

    /// After the text's attention: adds to `dq`, and forms the gradients of keys, values and scales.
    pub(super) fn backward(
        &self,
        cx: &mut Context<'_>,
        (q, lse, dheads, delta): (Span, Span, Span, Span),
        dq: Span,
        sink: &mut GradSink<'_, '_>,
    ) {
        let args = self.args(cx, q);
        let [dkey, dvalue] = [self.key, self.value].map(|param| cx.model.acts.grads.of_adapter(param.id));
        let (dout, accumulate) = (dheads, sink.accumulate);
        let grads = PrefixGradArgs { lse, dout, delta, dq, dkey, dvalue, accumulate };
        cx.backend.prefix_attention_grad(&args, &grads);
        let scales = self.scales.map(|scales| scales.map(Some)).unwrap_or_default();
        for ((param, grad), scale) in [(&self.key, dkey), (&self.value, dvalue)].into_iter().zip(scales) {
            // Until a batch is whole its gradients are those of what the products see.
            if let (Some(scale), true) = (scale, sink.last) {
                let dscale = cx.model.acts.grads.of_adapter(scale.id);
                cx.backend.scaled_grad(grad, param.weight.data, scale.weight.data, dscale);
                sink.add_adapter(cx, &scale, dscale);
            }
            sink.add_adapter(cx, param, grad);
        }
    }
}

/// The prefixes of all blocks that have one, with their numbers, from the parameters of `specs`.
pub(super) fn prefixes(settings: &Settings, specs: &[ParamSpec], params: &[Param]) -> Vec<(usize, Prefix)> {
    let Some(adapter) = settings.prefix() else { return Vec::new() };
    let (config, factor) = (&settings.adapters[adapter].config, settings.adapters[adapter].scale);
    let placed: HashMap<ParamKind, Param> = specs.iter().map(|spec| spec.kind).zip(params.iter().copied()).collect();
    let of = |layer| {
        let find = |part| {
            let site = AdapterSite::Attention(layer);
            placed.get(&ParamKind::Adapter(AdapterParam { adapter, site, part })).copied()
        };
        let prefix = Prefix {
            key: find(AdapterPart::PrefixKey).expect("every prefix has keys"),
            value: find(AdapterPart::PrefixValue).expect("every prefix has values"),
            scales: find(AdapterPart::PrefixKeyScale).zip(find(AdapterPart::PrefixValueScale)).map(<[Param; 2]>::from),
            compensate: config.compensate,
            factor,
        };
        (layer, prefix)
    };
    config.blocks(&settings.model).into_iter().map(of).collect()
}
