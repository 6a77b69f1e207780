//! A prefix: trained keys and values that every sequence sees before its own, in the attention of one block.

use super::context::Context;
use super::grad_sink::GradSink;
use super::{
    AdapterKind, AdapterParam, AdapterPart, AdapterRows, AdapterSite, AdapterUse, ParamKind, ParamSpec, Settings,
};
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
    /// The rows that see it.
    pub rows: AdapterRows,
}

impl Settings {
    /// The numbers of the adapters that are prefixes; multiplied by 0 they are none. There is one, or that of each expert.
    fn prefixes(&self) -> impl Iterator<Item = usize> {
        let is_one = |used: &AdapterUse| {
            used.config.kind == AdapterKind::Prefix && used.scale != 0.0 && used.rows != AdapterRows::None
        };
        (0..self.adapters.len()).filter(move |&number| is_one(&self.adapters[number]))
    }

    /// The keys that a text's positions begin after, 0 without a prefix.
    pub fn prefix_length(&self) -> usize {
        self.prefixes().next().map_or(0, |number| self.adapters[number].config.length)
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
        let (width, heads_of_token) = (cx.model.settings.model.query_width(), cx.model.settings.model.heads);
        let (cx, from) = cx.rows_of(self.rows);
        let (q, heads) = (cx.part(q, from, width), cx.part(heads, from, width));
        let lse = lse.part(4 * from * heads_of_token, 4 * cx.batch.tokens() * heads_of_token);
        let args = self.args(&cx, q);
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
        let (dout, accumulate) = (dheads, sink.begin(cx, dkey));
        assert_eq!(sink.begin(cx, dvalue), accumulate, "both begin as the batch does");
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
    let placed: HashMap<ParamKind, Param> = specs.iter().map(|spec| spec.kind).zip(params.iter().copied()).collect();
    let of = |adapter: usize, layer| {
        let used = &settings.adapters[adapter];
        let find = |part| {
            let (site, offline) = (AdapterSite::Attention(layer), used.offline);
            placed.get(&ParamKind::Adapter(AdapterParam { adapter, site, part, offline })).copied()
        };
        let prefix = Prefix {
            key: find(AdapterPart::PrefixKey).expect("every prefix has keys"),
            value: find(AdapterPart::PrefixValue).expect("every prefix has values"),
            scales: find(AdapterPart::PrefixKeyScale).zip(find(AdapterPart::PrefixValueScale)).map(<[Param; 2]>::from),
            compensate: used.config.compensate,
            factor: used.scale,
            rows: used.rows,
        };
        (layer, prefix)
    };
    let blocks = |adapter: usize| settings.adapters[adapter].config.blocks(&settings.model);
    settings
        .prefixes()
        .flat_map(|adapter| blocks(adapter).into_iter().map(move |layer| (adapter, layer)))
        .map(|(adapter, layer)| of(adapter, layer))
        .collect()
}
