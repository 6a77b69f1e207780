//! DoRA (arXiv 2402.09353): the rows of `W + f B A` brought to norms that are trained, `y = g (W x + f B A x)` with `g = m / n`.
//! The norms n are constants to the gradient. They come from `|W|^2`, which is measured once, and from two products of as many
//! rows as A has; the sum of matrices is never formed.

use super::context::Context;
use super::grad_sink::GradSink;
use super::low_rank::LowRankPair;
use super::{AdapterParam, AdapterPart, AdapterSite, Model, ParamKind, ParamSpec};
use crate::backend::{Accumulate, Backend, Param, Weight};
use crate::memory::Span;
use crate::quant::{RowDecoder, WeightPlane};
use zerocopy::IntoBytes;

/// The trained norms of one pair.
#[derive(Clone, Copy, Debug)]
pub struct Magnitude {
    /// m, float32 `[O]`
    pub magnitude: Param,
    /// Its number among all.
    pub number: usize,
    /// How much of what the pair changes is added.
    pub share: f32,
}

/// The buffers of all of them; R is the largest rank.
#[derive(Clone, Debug, Default)]
pub struct MagnitudeActs {
    /// `0 .. R`
    pub ids: Span,
    /// A as activations `[R, I]`
    pub a: Span,
    /// B transposed as activations `[R, O]`
    pub b: Span,
    /// `2 A W^T + f A A^T B^T` `[R, O]`
    pub r: Span,
    /// `f A A^T` `[R, R]`
    pub gram: Span,
    /// n, float32 `[O]`
    pub norms: Span,
    /// `W x`, `f B A x` or a gradient of them `[M, O]`
    pub product: Span,
    /// `|W|^2` of the rows of each adapted matrix, float32.
    pub squares: Vec<Span>,
}

impl LowRankPair {
    /// n of each output.
    fn norms(&self, cx: &mut Context<'_>, own: &Magnitude, weight: &Weight) -> Span {
        let acts = &cx.model.acts.magnitude;
        let ([rank, inputs], outputs) = ([self.a.weight.shape.rows, self.inputs], self.b.weight.shape.cols);
        let rows = |span, width| cx.model.rows(span, 0, rank, width);
        let (ids, norms) = (acts.ids.head(4 * rank), acts.norms.head(4 * outputs));
        let [a, b, r] = [(acts.a, inputs), (acts.b, outputs), (acts.r, outputs)].map(|(span, width)| rows(span, width));
        let gram = rows(acts.gram, rank);
        cx.backend.embedding(ids, &self.a.weight, a);
        cx.backend.embedding(ids, &self.b.weight, b);
        cx.backend.linear(a, weight, r, Accumulate::No);
        cx.backend.scale_rows(r, outputs, 2.0, None);
        cx.backend.linear(a, &self.a.weight, gram, Accumulate::No);
        cx.backend.scale_rows(gram, rank, self.factor, None);
        cx.backend.linear_grad_input(gram, &self.b.weight, r, Accumulate::Yes);
        cx.backend.row_norms(b, r, acts.squares[own.number], self.factor, norms);
        norms
    }

    /// Adds `share (g (W x + f B A x) - W x)` to `y`.
    pub(super) fn forward_magnitude(
        &self,
        cx: &mut Context<'_>,
        own: &Magnitude,
        (weight, x): (&Weight, Span),
        y: Span,
    ) {
        let norms = self.norms(cx, own, weight);
        let (input, down) = self.down(cx, x);
        self.scale(cx, down);
        let product = cx.micro_rows(cx.model.acts.magnitude.product, self.b.weight.shape.cols);
        let (magnitude, share) = (own.magnitude.weight.data, own.share);
        cx.model.product(cx.backend, cx.batch, input, (weight, product), Accumulate::No);
        cx.backend.add_columns(product, y, magnitude, norms, [share, -share]);
        cx.backend.linear_grad_input(down, &self.b.weight, product, Accumulate::No);
        cx.backend.add_columns(product, y, magnitude, norms, [share, 0.0]);
    }

    /// Adds to `dx`, and forms the gradients of A, of B and of m.
    pub(super) fn backward_magnitude(
        &self,
        cx: &mut Context<'_>,
        own: &Magnitude,
        (weight, dy, x): (&Weight, Span, Span),
        dx: Span,
        sink: &mut GradSink<'_, '_>,
    ) {
        let ([rank, cols], outputs) = ([self.a.weight.shape.rows, self.a.weight.shape.cols], self.b.weight.shape.cols);
        let magnitude = own.magnitude.weight.data;
        let parts = [self.a, self.b, own.magnitude];
        let grads = parts.map(|param| cx.model.acts.grads.of_adapter(param.id));
        let [of_a, of_b, of_magnitude] = grads.map(|grad| sink.begin(cx, grad));
        let norms = self.norms(cx, own, weight);
        let (input, down) = self.down(cx, x);
        self.scale(cx, down);
        let product = cx.micro_rows(cx.model.acts.magnitude.product, outputs);
        cx.model.product(cx.backend, cx.batch, input, (weight, product), Accumulate::No);
        cx.backend.linear_grad_input(down, &self.b.weight, product, Accumulate::Yes);
        cx.backend.magnitude_grad(product, dy, norms, grads[2], of_magnitude);
        // The gradient of f B A x.
        cx.backend.zero(product);
        cx.backend.add_columns(dy, product, magnitude, norms, [1.0, 0.0]);
        let ddown = cx.micro_rows(cx.model.acts.low_rank.ddown, rank);
        cx.backend.linear(product, &self.b.weight, ddown, Accumulate::No);
        cx.backend.linear_grad_weight(down, product, grads[1], rank, outputs, of_b);
        self.scale(cx, ddown);
        cx.backend.linear_grad_weight(ddown, input, grads[0], rank, cols, of_a);
        self.input_grad(cx, (ddown, input), dx);
        // That of what W x is short of or beyond.
        cx.backend.zero(product);
        cx.backend.add_columns(dy, product, magnitude, norms, [1.0, -1.0]);
        let matrix = (weight, self.a.id);
        match self.left_out(cx) {
            None => cx.model.product_grad_input(cx.backend, cx.batch, product, matrix, (dx, Accumulate::Yes)),
            Some(args) => {
                let whole = cx.micro_rows(cx.model.acts.low_rank.dropped, self.inputs);
                cx.model.product_grad_input(cx.backend, cx.batch, product, matrix, (whole, Accumulate::No));
                cx.backend.dropout(whole, dx, self.inputs, &args, Accumulate::Yes);
            }
        }
        for (param, grad) in parts.iter().zip(grads) {
            sink.add_adapter(cx, param, grad);
        }
    }
}

/// Which of all magnitudes the parameter of this number is.
pub(super) fn number(specs: &[ParamSpec], id: u32) -> usize {
    specs.iter().filter(|spec| spec.id < id && is_one(spec.kind)).count()
}

fn is_one(kind: ParamKind) -> bool {
    matches!(kind, ParamKind::Adapter(AdapterParam { part: AdapterPart::Magnitude, .. }))
}

/// The magnitudes of a model with the matrices that they are of, in the order of the specs.
fn measured(model: &Model) -> impl Iterator<Item = (usize, usize)> {
    let specs = move || model.specs.iter().enumerate();
    specs().filter_map(move |(i, spec)| match spec.kind {
        ParamKind::Adapter(AdapterParam {
            site: AdapterSite::Matrix(matrix), part: AdapterPart::Magnitude, ..
        }) => {
            let base = specs().find(|(_, spec)| spec.kind == matrix.kind());
            Some((i, base.expect("the base has every adapted matrix").0))
        }
        _ => None,
    })
}

/// Measures the rows of the adapted matrices, which must be where the model keeps them.
pub(super) fn measure(model: &Model, backend: &mut dyn Backend) {
    let acts = &model.acts.magnitude;
    let ids: Vec<u32> = (0..acts.ids.bytes as u32 / 4).collect();
    if ids.is_empty() {
        return;
    }
    backend.upload(ids.as_bytes(), acts.ids);
    for ((_, base), &to) in measured(model).zip(&acts.squares) {
        let squares = row_squares(&model.stored[base].weight, backend);
        backend.upload(squares.as_bytes(), to);
    }
}

/// The sum of squares of each row of a weight, as products see it.
fn row_squares(weight: &Weight, backend: &dyn Backend) -> Vec<f32> {
    let planes = WeightPlane::ALL.map(|plane| {
        let span = weight.span(plane);
        let mut bytes = vec![0u8; span.bytes];
        if !span.is_none() {
            backend.download(span, &mut bytes);
        }
        bytes
    });
    let decoder = RowDecoder::new(weight.format, weight.shape, |plane| &planes[plane as usize]);
    let mut row = vec![0.0f32; weight.shape.cols];
    let square = |i| {
        decoder.read(i, 0, &mut row);
        row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() as f32
    };
    (0..weight.shape.rows).map(square).collect()
}

/// Sets every magnitude to the norms of the base's rows, so that with B = 0 the model is its base.
pub(super) fn initialize(model: &Model, backend: &mut dyn Backend) {
    for ((own, _), &squares) in measured(model).zip(&model.acts.magnitude.squares) {
        let mut values = vec![0.0f32; squares.bytes / 4];
        backend.download(squares, values.as_mut_bytes());
        values.iter_mut().for_each(|x| *x = x.sqrt());
        backend.upload(values.as_bytes(), model.stored[own].weight.data);
    }
}
