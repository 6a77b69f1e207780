//! Causal attention, forward and backward: items are the floating-point operations of the visible half of the
//! scores (4 D per query and visible key forward, 10 D backward), so Gitem/s is GFLOP/s. Checked against the float64
//! reference before it is timed.

#[path = "../tests/harness/operands.rs"]
mod operands;

use divan::Bencher;
use divan::counter::ItemsCount;
use operands::{Harness, assert_near, floats, read};
use tetrad::backend::cpu::Cpu;
use tetrad::backend::ops::reference::{self, wide};
use tetrad::backend::prelude::*;
use tetrad::backend::{AttentionArgs, AttentionGradArgs, AttentionShape, Compute, MaxShapes};
use tetrad::memory::Span;

fn main() {
    divan::main();
}

/// Batch, sequence, heads, key heads, elements per head: the quick-start, then larger ones.
const SHAPES: [(usize, usize, usize, usize, usize); 3] =
    [(16, 128, 4, 4, 32), (4, 512, 8, 8, 64), (1, 1024, 16, 4, 64)];

struct Layer {
    cpu: Cpu,
    shape: AttentionShape,
    data: [Vec<f32>; 4],
    /// q, k, v, dout.
    inputs: [Span; 4],
    /// out, lse, dq, dk, dv.
    outputs: [Span; 5],
}

fn layer((batch, queries, heads, kv_heads, head_dim): (usize, usize, usize, usize, usize)) -> Layer {
    let (wide, narrow) = (batch * queries * heads * head_dim, batch * queries * kv_heads * head_dim);
    let data = [floats(1, wide), floats(2, narrow), floats(3, narrow), floats(4, wide)];
    let mut harness = Harness::default();
    let inputs = [0, 1, 2, 3].map(|i: usize| harness.add(&data[i]));
    let outputs = [wide, batch * heads * queries, wide, narrow, narrow].map(|n| harness.out(n));
    let features = heads * head_dim;
    let largest = MaxShapes {
        tokens: batch * queries,
        features,
        inputs: features,
        keys: queries,
        parameter: 0,
        head_dim,
        prefix: 0,
        compute: Compute::F32,
    };
    let shape = AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads, head_dim };
    let mut cpu = Cpu::new();
    harness.start(&mut cpu, &largest);
    Layer { cpu, shape, data, inputs, outputs }
}

fn flops(shape: AttentionShape, each: usize) -> ItemsCount {
    let AttentionShape { batch, queries, heads, head_dim, .. } = shape;
    ItemsCount::new(batch * heads * queries * (queries + 1) / 2 * head_dim * each)
}

#[divan::bench(args = SHAPES)]
fn forward(bencher: Bencher, shape: (usize, usize, usize, usize, usize)) {
    let Layer { mut cpu, shape, data: [q, k, v, _], inputs: [q_at, k_at, v_at, _], outputs: [out, lse, ..] } =
        layer(shape);
    let args = AttentionArgs { q: q_at, k: k_at, v: v_at, out, lse, segment_start: None, shape };
    cpu.attention(&args);
    let (expected_out, expected_lse) = reference::attention(&wide(&q), &wide(&k), &wide(&v), None, shape);
    assert_near(&read::<f32>(&cpu, out), &expected_out, 1e-5, 1e-5, "output");
    assert_near(&read::<f32>(&cpu, lse), &expected_lse, 1e-5, 1e-5, "output");
    bencher.counter(flops(shape, 4)).bench_local(|| cpu.attention(&args));
}

#[divan::bench(args = SHAPES)]
fn backward(bencher: Bencher, shape: (usize, usize, usize, usize, usize)) {
    let Layer { mut cpu, shape, data, inputs: [q, k, v, dout], outputs: [out, lse, dq, dk, dv] } = layer(shape);
    let segment_start = None;
    cpu.attention(&AttentionArgs { q, k, v, out, lse, segment_start, shape });
    let args = AttentionGradArgs {
        q,
        k,
        v,
        out: None,
        lse,
        dout,
        dq,
        dk,
        dv,
        delta: None,
        rotated_by: None,
        segment_start,
        shape,
    };
    cpu.attention_grad(&args);
    let [q64, k64, v64, dout64] = data.map(|data| wide(&data));
    let expected = reference::attention_grad(&q64, &k64, &v64, &dout64, None, shape);
    for (span, expected) in [dq, dk, dv].into_iter().zip(&expected) {
        assert_near(&read::<f32>(&cpu, span), expected, 1e-4, 1e-4, "output");
    }
    bencher.counter(flops(shape, 10)).bench_local(|| cpu.attention_grad(&args));
}
