//! A bottleneck beside the attention or the MLP of a block, as LAE has it: `y += s (U gelu(D x + d) + u)`, where x is the
//! normed input of what it stands beside.

use super::context::Context;
use super::grad_sink::GradSink;
use super::{AdapterKind, AdapterParam, AdapterPart, AdapterRows, AdapterSite, ParamKind, ParamSpec, Settings};
use crate::backend::{Accumulate, Param};
use crate::memory::Span;
use std::collections::HashMap;

/// One bottleneck in one place.
#[derive(Clone, Copy, Debug)]
pub struct Bottleneck {
    /// D `[N, hidden]`
    pub down: Param,
    /// d `[N]`
    pub down_bias: Param,
    /// U transposed, `[N, hidden]`
    pub up: Param,
    /// u `[hidden]`
    pub up_bias: Param,
    /// s, if it is learned.
    pub scale: Option<Param>,
    /// What all of it is multiplied by besides.
    pub factor: f32,
    /// The rows that it is added to.
    pub rows: AdapterRows,
}

/// The buffers of all bottlenecks, as long as a micro-batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct BottleneckActs {
    /// `D x + d` `[M, N]`
    pub narrow: Span,
    /// Its GELU `[M, N]`
    pub act: Span,
    /// The gradient of either `[M, N]`
    pub dact: Span,
    /// `U gelu(..) + u` `[M, hidden]`, or its gradient
    pub wide: Span,
}

impl Bottleneck {
    /// Adds to `y` from `x`. At a factor of 0 nothing is touched.
    pub(super) fn forward(&self, cx: &mut Context<'_>, x: Span, y: Span) {
        if self.factor == 0.0 {
            return;
        }
        let hidden = self.up.weight.shape.cols;
        let (mut cx, from) = cx.rows_of(self.rows);
        let (x, y) = (cx.part(x, from, hidden), cx.part(y, from, hidden));
        let wide = self.wide(&mut cx, x);
        self.scale(&mut cx, wide);
        // The gradient of sums of one feature each: an addition.
        cx.backend.sum_groups_grad(wide, y, hidden, 1, Accumulate::Yes);
    }

    /// What is scaled and added; the buffers before it are filled too.
    fn wide(&self, cx: &mut Context<'_>, x: Span) -> Span {
        let (acts, [width, hidden]) =
            (cx.model.acts.bottleneck, [self.up.weight.shape.rows, self.up.weight.shape.cols]);
        let (narrow, act) = (cx.micro_rows(acts.narrow, width), cx.micro_rows(acts.act, width));
        cx.backend.linear(x, &self.down.weight, narrow, Accumulate::No);
        cx.backend.add_bias(narrow, self.down_bias.weight.data, width);
        cx.backend.gelu(narrow, act);
        let wide = cx.micro_rows(acts.wide, hidden);
        cx.backend.linear_grad_input(act, &self.up.weight, wide, Accumulate::No);
        cx.backend.add_bias(wide, self.up_bias.weight.data, hidden);
        wide
    }

    fn scale(&self, cx: &mut Context<'_>, wide: Span) {
        let learned = self.scale.as_ref().map(|scale| scale.weight.data);
        if learned.is_some() || self.factor != 1.0 {
            cx.backend.scale_rows(wide, self.up.weight.shape.cols, self.factor, learned);
        }
    }

    /// Adds to `dx`, and forms the gradients of all parts.
    pub(super) fn backward(&self, cx: &mut Context<'_>, (dy, x): (Span, Span), dx: Span, sink: &mut GradSink<'_, '_>) {
        let [width, hidden] = [self.up.weight.shape.rows, self.up.weight.shape.cols];
        let grad = |param: &Param| cx.model.acts.grads.of_adapter(param.id);
        let parts = [self.down, self.down_bias, self.up, self.up_bias];
        let grads = parts.each_ref().map(grad);
        let [down, down_bias, up, up_bias] = grads;
        let scale = self.scale.map(|scale| (scale, grad(&scale)));
        // In the order in which they are handed over.
        let [of_down, of_down_bias, of_up, of_up_bias] = grads.map(|grad| sink.begin(cx, grad));
        let wide = self.wide(cx, x);
        let acts = cx.model.acts.bottleneck;
        let [narrow, act, dact] = [acts.narrow, acts.act, acts.dact].map(|span| cx.micro_rows(span, width));
        if let Some((_, grad)) = scale {
            let accumulate = sink.begin(cx, grad);
            cx.backend.scale_grad(wide, dy, hidden, self.factor, grad, accumulate);
        }
        cx.backend.copy(dy, wide);
        self.scale(cx, wide);
        cx.backend.bias_grad(wide, up_bias, hidden, of_up_bias);
        cx.backend.linear_grad_weight(act, wide, up, width, hidden, of_up);
        cx.backend.linear(wide, &self.up.weight, dact, Accumulate::No);
        cx.backend.gelu_grad(narrow, dact);
        cx.backend.bias_grad(dact, down_bias, width, of_down_bias);
        cx.backend.linear_grad_weight(dact, x, down, width, hidden, of_down);
        cx.backend.linear_grad_input(dact, &self.down.weight, dx, Accumulate::Yes);
        for (param, grad) in parts.into_iter().zip(grads).chain(scale) {
            sink.add_adapter(cx, &param, grad);
        }
    }
}

/// The bottlenecks of all adapters and where they stand, from the parameters of `specs`.
pub(super) fn bottlenecks(
    settings: &Settings,
    specs: &[ParamSpec],
    params: &[Param],
) -> Vec<(AdapterSite, Bottleneck)> {
    let placed: HashMap<ParamKind, Param> = specs.iter().map(|spec| spec.kind).zip(params.iter().copied()).collect();
    let mut found = Vec::new();
    for (adapter, used) in settings.adapters.iter().enumerate() {
        if used.config.kind != AdapterKind::Bottleneck || used.rows == AdapterRows::None {
            continue;
        }
        for layer in used.config.blocks(&settings.model) {
            let site = used.config.place.site(layer);
            let offline = used.offline;
            let of = |part| placed.get(&ParamKind::Adapter(AdapterParam { adapter, site, part, offline })).copied();
            let must = |part| of(part).expect("every bottleneck has it");
            let bottleneck = Bottleneck {
                down: must(AdapterPart::Down),
                down_bias: must(AdapterPart::DownBias),
                up: must(AdapterPart::UpTransposed),
                up_bias: must(AdapterPart::UpBias),
                scale: of(AdapterPart::BottleneckScale),
                factor: used.scale,
                rows: used.rows,
            };
            found.push((site, bottleneck));
        }
    }
    found
}
