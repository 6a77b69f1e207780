//! The kernels that take most of a step, each launched once: what a profiler is given, which repeats them itself.

use super::Sizes;
use super::kernels::step;
use crate::harness::operands::{Harness, floats};
use tetrad::backend::prelude::*;
use tetrad::backend::{Accumulate, AttentionArgs, AttentionGradArgs, AttentionShape, Rotation};
use tetrad::quant::WeightFormat;

/// Launches them.
pub fn profile(sizes: &Sizes) {
    let (h, f) = (sizes.hidden, sizes.intermediate);
    for (outputs, inputs) in [(f, h), (h, f)] {
        products(sizes, outputs, inputs);
        update(sizes, outputs, inputs);
    }
    [64, 128].into_iter().for_each(|head_dim| attention(sizes, head_dim));
    rows(sizes);
}

/// The three products of a matrix.
fn products(sizes: &Sizes, outputs: usize, inputs: usize) {
    let tokens = sizes.tokens;
    let mut harness = Harness::default();
    let (x, dy) = (harness.random_rows(1, tokens, inputs), harness.random_rows(2, tokens, outputs));
    let (y, dx) = (harness.unfilled_rows(tokens, outputs), harness.unfilled_rows(tokens, inputs));
    let grad = harness.unfilled(4 * outputs * inputs);
    let w = harness.random_weight(outputs, inputs, WeightFormat::INT4);
    let mut cuda = harness.open(&sizes.largest(tokens, outputs.max(inputs)));
    cuda.linear(x, &w, y, Accumulate::No);
    cuda.linear_grad_input(dy, &w, dx, Accumulate::No);
    cuda.linear_grad_weight(dy, x, grad, outputs, inputs, Accumulate::No);
    assert_eq!(cuda.status(), Ok(()));
}

fn update(sizes: &Sizes, rows: usize, cols: usize) {
    let mut harness = Harness::default();
    let (param, grad) = (harness.param(rows, cols), harness.random_floats(3, rows * cols));
    let mut cuda = harness.open(&sizes.largest(8, sizes.hidden));
    cuda.adam(&param, grad, &step(1));
    assert_eq!(cuda.status(), Ok(()));
}

fn attention(sizes: &Sizes, head_dim: usize) {
    let queries = sizes.sequences[1];
    let (batch, heads) = (sizes.tokens / queries, sizes.hidden / head_dim);
    let shape = AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads: heads, head_dim };
    let count = batch * queries * heads * head_dim;
    let mut harness = Harness::default();
    let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| harness.random_activations(seed, count));
    let [out, dq, dk, dv] = [(); 4].map(|()| harness.unfilled(2 * count));
    let lse = harness.unfilled(4 * batch * heads * queries);
    let mut cuda = harness.open(&sizes.largest(batch * queries, heads * head_dim));
    let segment_start = None;
    cuda.attention(&AttentionArgs { q, k, v, out, lse, segment_start, shape });
    let out = Some(out);
    cuda.attention_grad(&AttentionGradArgs {
        q,
        k,
        v,
        out,
        lse,
        dout,
        dq,
        dk,
        dv,
        delta: None,
        rotated_by: None,
        segment_start,
        shape,
    });
    assert_eq!(cuda.status(), Ok(()));
}

/// Kernels that move bytes.
fn rows(sizes: &Sizes) {
    let Sizes { tokens: t, hidden: h, intermediate: f, sequences: [sequence, _], .. } = *sizes;
    let mut harness = Harness::default();
    let [x, y] = [1, 2].map(|seed| harness.random_rows(seed, t, h));
    let [gate, up, act] = [4, 5, 6].map(|seed| harness.random_rows(seed, t, f));
    let (gain, inv) = (harness.add(&vec![1.0f32; h]), harness.add(&vec![1.0f32; t]));
    let angles = harness.add(&floats(7, sequence * 64));
    let mut cuda = harness.open(&sizes.largest(t, f.max(h)));
    cuda.rms_norm(x, gain, y, inv, 1e-6);
    cuda.rope(x, angles, Rotation { heads: h / 64, head_dim: 64, queries: sequence, start: 0, inverse: false }, None);
    cuda.swiglu(gate, up, act);
    cuda.swiglu_grad(gate, up, act);
    assert_eq!(cuda.status(), Ok(()));
}
