//! Low-rank matrices beside a linear layer: `y += f B A x`, and their gradients. The base's own weights get none.

use super::context::Context;
use super::grad_sink::GradSink;
use super::{
    AdapterParam, AdapterPart, AdapterRows, AdapterSite, AdapterUse, BlockParam, EmbeddingPair, LowRankSite, Magnitude,
    MatrixSite, ParamKind, ParamSpec, Purpose, Settings, magnitude,
};
use crate::backend::{Accumulate, DropoutArgs, Param, Weight};
use crate::memory::Span;
use crate::quant::{RngKey, RngUse};
use std::collections::HashMap;

/// One adapter's matrices beside one of the base's.
#[derive(Clone, Copy, Debug)]
pub struct LowRankPair {
    /// A `[R, I]`
    pub a: Param,
    /// B transposed, `[R, O]`
    pub b: Param,
    /// The learned factor.
    pub scale: Option<Param>,
    /// The norms that rows of the sum are brought to.
    pub magnitude: Option<Magnitude>,
    /// What the product is multiplied by besides.
    pub factor: f32,
    /// Probability that a step leaves out an input.
    pub dropout: f32,
    /// Inputs of the layer.
    pub inputs: usize,
    /// How many of them A sees as one, their sum; 1: each by itself.
    pub group: usize,
    /// Which rows of a batch it is added to.
    pub rows: AdapterRows,
}

/// The buffers of all pairs, as long as a micro-batch, or as a chunk of the head's if that has a pair and is longer.
#[derive(Clone, Copy, Debug, Default)]
pub struct LowRankActs {
    /// `f A x` `[M, R]`
    pub down: Span,
    /// The gradient of `A x` `[M, R]`
    pub ddown: Span,
    /// What dropout leaves of an input `[M, I]`; only with dropout.
    pub dropped: Span,
    /// Sums of the groups of an input `[M, groups]`; only with groups.
    pub sums: Span,
}

impl LowRankPair {
    /// Its tensors, in the order of the file.
    pub(super) fn params(&self) -> impl Iterator<Item = &Param> {
        let magnitude = self.magnitude.as_ref().map(|own| &own.magnitude);
        [&self.a, &self.b].into_iter().chain(magnitude).chain(&self.scale)
    }

    /// Adds to `y` from `x` beside the base's matrix. At a factor of 0 nothing is touched.
    pub(super) fn forward(&self, cx: &mut Context<'_>, (weight, x): (&Weight, Span), y: Span) {
        if self.magnitude.map_or(self.factor, |magnitude| magnitude.share) == 0.0 {
            return;
        }
        let (mut cx, from) = cx.rows_of(self.rows);
        let (x, y) = (cx.part(x, from, self.inputs), cx.part(y, from, self.b.weight.shape.cols));
        match &self.magnitude {
            Some(magnitude) => self.forward_magnitude(&mut cx, magnitude, (weight, x), y),
            None => self.add(&mut cx, x, y),
        }
    }

    /// The same for all rows of a batch.
    fn add(&self, cx: &mut Context<'_>, x: Span, y: Span) {
        let down = self.down(cx, x).1;
        self.scale(cx, down);
        cx.backend.linear_grad_input(down, &self.b.weight, y, Accumulate::Yes);
    }

    /// What A sees of `x`, and `A x`.
    pub(super) fn down(&self, cx: &mut Context<'_>, x: Span) -> (Span, Span) {
        let (shape, inputs) = (self.a.weight.shape, self.inputs);
        let mut input = x;
        if let Some(args) = self.left_out(cx) {
            input = cx.micro_rows(cx.model.acts.low_rank.dropped, inputs);
            cx.backend.dropout(x, input, inputs, &args, Accumulate::No);
        }
        if self.group > 1 {
            let sums = cx.micro_rows(cx.model.acts.low_rank.sums, shape.cols);
            cx.backend.sum_groups(input, sums, inputs, self.group);
            input = sums;
        }
        let down = cx.micro_rows(cx.model.acts.low_rank.down, shape.rows);
        cx.backend.linear(input, &self.a.weight, down, Accumulate::No);
        (input, down)
    }

    pub(super) fn scale(&self, cx: &mut Context<'_>, down: Span) {
        scale(cx, (down, self.a.weight.shape.rows), self.factor, self.scale.as_ref());
    }

    /// The same in forward and in every backward of a step.
    pub(super) fn left_out(&self, cx: &Context<'_>) -> Option<DropoutArgs> {
        let Purpose::Step(step) = cx.batch.purpose else { return None };
        let key = RngKey { seed: cx.model.settings.seed, step, tensor: self.a.id, usage: RngUse::Dropout };
        let args = DropoutArgs { key, first_row: cx.batch.before + cx.batch.from, probability: self.dropout };
        (self.dropout > 0.0).then_some(args)
    }

    /// Adds to `dx`, and forms the gradients of A, of B and of the factor.
    pub(super) fn backward(
        &self,
        cx: &mut Context<'_>,
        (weight, dy, x): (&Weight, Span, Span),
        dx: Span,
        sink: &mut GradSink<'_, '_>,
    ) {
        if let Some(magnitude) = &self.magnitude {
            return self.backward_magnitude(cx, magnitude, (weight, dy, x), dx, sink);
        }
        let ([rank, cols], outputs) = ([self.a.weight.shape.rows, self.a.weight.shape.cols], self.b.weight.shape.cols);
        let (input, down) = self.down(cx, x);
        let ddown = cx.micro_rows(cx.model.acts.low_rank.ddown, rank);
        cx.backend.linear(dy, &self.b.weight, ddown, Accumulate::No);
        let grad = |param: &Param| cx.model.acts.grads.of_adapter(param.id);
        let (a_grad, b_grad, scale_grad) = (grad(&self.a), grad(&self.b), self.scale.as_ref().map(grad));
        // In the order in which they are handed over.
        let (of_a, of_b) = (sink.begin(cx, a_grad), sink.begin(cx, b_grad));
        if let Some(grad) = scale_grad {
            let accumulate = sink.begin(cx, grad);
            cx.backend.scale_grad(down, ddown, rank, self.factor, grad, accumulate);
        }
        self.scale(cx, down);
        cx.backend.linear_grad_weight(down, dy, b_grad, rank, outputs, of_b);
        self.scale(cx, ddown);
        cx.backend.linear_grad_weight(ddown, input, a_grad, rank, cols, of_a);
        self.input_grad(cx, (ddown, input), dx);
        sink.add_adapter(cx, &self.a, a_grad);
        sink.add_adapter(cx, &self.b, b_grad);
        if let (Some(scale), Some(grad)) = (&self.scale, scale_grad) {
            sink.add_adapter(cx, scale, grad);
        }
    }
}

impl LowRankPair {
    /// Adds to the gradient of the layer's input from that of `A x`; `input` is what A saw, which has served.
    pub(super) fn input_grad(&self, cx: &mut Context<'_>, (ddown, input): (Span, Span), dx: Span) {
        let (a, left_out, inputs) = (&self.a.weight, self.left_out(cx), self.inputs);
        // Where the gradient of the input is whole, before elements are left out of it.
        let (whole, accumulate) = match left_out {
            None => (dx, Accumulate::Yes),
            Some(_) => (cx.micro_rows(cx.model.acts.low_rank.dropped, inputs), Accumulate::No),
        };
        if self.group > 1 {
            cx.backend.linear_grad_input(ddown, a, input, Accumulate::No);
            cx.backend.sum_groups_grad(input, whole, inputs, self.group, accumulate);
        } else {
            cx.backend.linear_grad_input(ddown, a, whole, accumulate);
        }
        if let Some(args) = left_out {
            cx.backend.dropout(whole, dx, inputs, &args, Accumulate::Yes);
        }
    }
}

/// Multiplies rows of `rank` numbers by the factor of their pair and what was learned as one.
pub(super) fn scale(cx: &mut Context<'_>, (rows, rank): (Span, usize), factor: f32, learned: Option<&Param>) {
    let learned = learned.map(|scale| scale.weight.data);
    if learned.is_some() || factor != 1.0 {
        cx.backend.scale_rows(rows, rank, factor, learned);
    }
}

/// The pairs of all adapters beside the matrices of a model.
#[derive(Default)]
pub(super) struct Pairs {
    pub embedding: Vec<EmbeddingPair>,
    /// With the number of the block and its matrix.
    pub blocks: Vec<(usize, BlockParam, LowRankPair)>,
    pub head: Vec<LowRankPair>,
}

impl Pairs {
    /// Of the parameters of `specs`.
    pub fn of(settings: &Settings, specs: &[ParamSpec], params: &[Param]) -> Self {
        let placed: HashMap<ParamKind, Param> =
            specs.iter().map(|spec| spec.kind).zip(params.iter().copied()).collect();
        let added = |(_, used): &(usize, &AdapterUse)| used.rows != AdapterRows::None;
        let mut pairs = Self::default();
        for (adapter, used) in settings.adapters.iter().enumerate().filter(added) {
            for site in used.config.sites(&settings.model) {
                let (at, offline) = (AdapterSite::Matrix(site.matrix), used.offline);
                let of =
                    |part| placed.get(&ParamKind::Adapter(AdapterParam { adapter, site: at, part, offline })).copied();
                let linear = || pair(settings, specs, used, site, &of);
                match site.matrix {
                    MatrixSite::Embedding => pairs.embedding.push(embedding_pair(used, site, &of)),
                    MatrixSite::Block(layer, matrix) => pairs.blocks.push((layer, matrix, linear())),
                    MatrixSite::Head => pairs.head.push(linear()),
                }
            }
        }
        pairs
    }
}

fn embedding_pair(used: &AdapterUse, site: LowRankSite, of: &dyn Fn(AdapterPart) -> Option<Param>) -> EmbeddingPair {
    EmbeddingPair {
        a: of(AdapterPart::A).expect("every site has it"),
        b: of(AdapterPart::B).expect("the embedding has it"),
        scale: of(AdapterPart::Scale),
        factor: site.factor as f32 * used.scale,
        rows: used.rows,
    }
}

fn pair(
    settings: &Settings,
    specs: &[ParamSpec],
    used: &AdapterUse,
    site: LowRankSite,
    of: &dyn Fn(AdapterPart) -> Option<Param>,
) -> LowRankPair {
    let magnitude = of(AdapterPart::Magnitude).map(|magnitude| Magnitude {
        magnitude,
        number: magnitude::number(specs, magnitude.id),
        share: used.scale,
    });
    LowRankPair {
        a: of(AdapterPart::A).expect("every site has it"),
        b: of(AdapterPart::BTransposed).expect("every site but the embedding has it"),
        scale: of(AdapterPart::Scale),
        factor: if magnitude.is_some() { site.factor as f32 } else { site.factor as f32 * used.scale },
        magnitude,
        dropout: used.config.dropout as f32,
        inputs: site.matrix.shape(&settings.model)[1],
        group: if used.config.group { settings.storage.group } else { 1 },
        rows: used.rows,
    }
}
