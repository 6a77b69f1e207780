//! The three products of a linear layer with packed INT4 weights, beside the `gemm` crate's plain float32 product of
//! the same shape. Items are floating-point operations: Gitem/s is GFLOP/s. Every operation is checked against the
//! float64 reference on some rows before it is timed.

#[path = "../tests/harness/operands.rs"]
mod operands;

use divan::Bencher;
use divan::counter::ItemsCount;
use gemm::Parallelism;
use operands::{Harness, assert_near, floats, int4, read};
use tetrad::backend::cpu::Cpu;
use tetrad::backend::ops::reference::{self, Planes, wide};
use tetrad::backend::ops::{Layout, MatMulArgs, Precision};
use tetrad::backend::prelude::*;
use tetrad::backend::{Accumulate, Compute, MaxShapes, RowDraws, Weight};
use tetrad::memory::Span;
use tetrad::quant::{RngKey, RngUse};

fn main() {
    divan::main();
}

/// Tokens: the quick-start's batch.
const TOKENS: usize = 2048;

/// Outputs and inputs: the quick-start's matrices, then those of the 350m preset.
const SHAPES: [(usize, usize); 5] = [(128, 128), (344, 128), (128, 344), (1024, 1024), (2736, 1024)];

/// Sums of some thousand products of magnitude one half.
const TOLERANCE: f64 = 1e-3;

struct Layer {
    cpu: Cpu,
    planes: Planes,
    w: Weight,
    x: Vec<f32>,
    dy: Vec<f32>,
    spans: [Span; 5],
}

fn layer((outputs, inputs): (usize, usize), compute: Compute) -> Layer {
    let mut harness = Harness::default();
    let planes = int4(outputs, inputs, 64);
    let w = harness.weight(&planes);
    let (x, dy) = (floats(3, TOKENS * inputs), floats(4, TOKENS * outputs));
    let spans = [
        harness.add(&x),
        harness.add(&dy),
        harness.out(TOKENS * outputs),
        harness.out(TOKENS * inputs),
        harness.out(outputs * inputs),
    ];
    let features = outputs.max(inputs);
    let largest = MaxShapes {
        tokens: TOKENS,
        features,
        inputs: features,
        keys: 1,
        parameter: outputs * inputs,
        head_dim: 1,
        prefix: 0,
        compute,
    };
    let mut cpu = Cpu::new();
    harness.start(&mut cpu, &largest);
    Layer { cpu, planes, w, x, dy, spans }
}

fn flops((outputs, inputs): (usize, usize)) -> ItemsCount {
    ItemsCount::new(2 * TOKENS * outputs * inputs)
}

/// Tokens that are checked: every 293rd, which are in different blocks and strips.
fn some_rows(x: &[f32], width: usize) -> Vec<f32> {
    x.chunks(width).step_by(293).flatten().copied().collect()
}

#[divan::bench(args = SHAPES)]
fn forward(bencher: Bencher, shape: (usize, usize)) {
    let Layer { mut cpu, planes, w, x, spans: [x_at, _, y, ..], .. } = layer(shape, Compute::F32);
    cpu.linear(x_at, &w, y, Accumulate::No);
    let expected = reference::linear(&wide(&some_rows(&x, shape.1)), &planes.values(), shape.1);
    assert_near(&some_rows(&read::<f32>(&cpu, y), shape.0), &expected, TOLERANCE, TOLERANCE, "output");
    bencher.counter(flops(shape)).bench_local(|| cpu.linear(x_at, &w, y, Accumulate::No));
}

/// `activations.compute = "int8"`; the same operations, in integers.
#[divan::bench(args = SHAPES)]
fn forward_int8(bencher: Bencher, shape: (usize, usize)) {
    let Layer { mut cpu, planes, w, x, spans: [x_at, _, y, ..], .. } = layer(shape, Compute::Int8);
    cpu.linear_int8(x_at, &[(&w, y)], Accumulate::No);
    let rounded = reference::round_int8(&some_rows(&x, shape.1), shape.1, w.shape.group);
    let expected = reference::linear(&rounded, &planes.values(), shape.1);
    assert_near(&some_rows(&read::<f32>(&cpu, y), shape.0), &expected, TOLERANCE, TOLERANCE, "output");
    bencher.counter(flops(shape)).bench_local(|| cpu.linear_int8(x_at, &[(&w, y)], Accumulate::No));
}

#[divan::bench(args = SHAPES)]
fn grad_input(bencher: Bencher, shape: (usize, usize)) {
    let Layer { mut cpu, planes, w, dy, spans: [_, dy_at, _, dx, _], .. } = layer(shape, Compute::F32);
    cpu.linear_grad_input(dy_at, &w, dx, Accumulate::No);
    let expected = reference::linear_grad_input(&wide(&some_rows(&dy, shape.0)), &planes.values(), shape.1);
    assert_near(&some_rows(&read::<f32>(&cpu, dx), shape.1), &expected, TOLERANCE, TOLERANCE, "output");
    bencher.counter(flops(shape)).bench_local(|| cpu.linear_grad_input(dy_at, &w, dx, Accumulate::No));
}

#[divan::bench(args = SHAPES)]
fn grad_weight(bencher: Bencher, shape: (usize, usize)) {
    let (outputs, inputs) = shape;
    let Layer { mut cpu, x, dy, spans: [x_at, dy_at, .., grad], .. } = layer(shape, Compute::F32);
    cpu.linear_grad_weight(dy_at, x_at, grad, outputs, inputs, Accumulate::No);
    // All tokens, but only every 29th output.
    let some: Vec<f32> = dy.chunks(outputs).flat_map(|row| row.iter().step_by(29)).copied().collect();
    let expected = reference::linear_grad_weight(&wide(&some), &wide(&x), outputs.div_ceil(29));
    let found: Vec<f32> = read::<f32>(&cpu, grad).chunks(inputs).step_by(29).flatten().copied().collect();
    assert_near(&found, &expected, TOLERANCE, TOLERANCE, "output");
    bencher
        .counter(flops(shape))
        .bench_local(|| cpu.linear_grad_weight(dy_at, x_at, grad, outputs, inputs, Accumulate::No));
}

/// `activations.compute = "bf16"`: the same operations, of operands rounded to bfloat16.
#[divan::bench(args = SHAPES)]
fn forward_bf16(bencher: Bencher, shape: (usize, usize)) {
    let Layer { mut cpu, planes, w, x, spans: [x_at, _, y, ..], .. } = layer(shape, Compute::Bf16);
    cpu.linear_bf16(x_at, &[(&w, y)], Accumulate::No);
    let (x, values) = (rounded(&some_rows(&x, shape.1)), reference::round_bf16(&planes.values()));
    let expected = reference::linear(&x, &values, shape.1);
    assert_near(&some_rows(&read::<f32>(&cpu, y), shape.0), &expected, TOLERANCE, TOLERANCE, "output");
    bencher.counter(flops(shape)).bench_local(|| cpu.linear_bf16(x_at, &[(&w, y)], Accumulate::No));
}

#[divan::bench(args = SHAPES)]
fn grad_input_bf16(bencher: Bencher, shape: (usize, usize)) {
    let Layer { mut cpu, planes, w, dy, spans: [_, dy_at, _, dx, _], .. } = layer(shape, Compute::Bf16);
    cpu.linear_grad_input_bf16(dy_at, &w, dx, Accumulate::No);
    let (dy, values) = (rounded(&some_rows(&dy, shape.0)), reference::round_bf16(&planes.values()));
    let expected = reference::linear_grad_input(&dy, &values, shape.1);
    assert_near(&some_rows(&read::<f32>(&cpu, dx), shape.1), &expected, TOLERANCE, TOLERANCE, "output");
    bencher.counter(flops(shape)).bench_local(|| cpu.linear_grad_input_bf16(dy_at, &w, dx, Accumulate::No));
}

/// In sequences of 128 tokens.
#[divan::bench(args = SHAPES)]
fn grad_weight_bf16(bencher: Bencher, shape: (usize, usize)) {
    let (outputs, inputs) = shape;
    let Layer { mut cpu, x, dy, spans: [x_at, dy_at, .., grad], .. } = layer(shape, Compute::Bf16);
    cpu.linear_grad_weight_bf16([dy_at, x_at, grad], shape, Accumulate::No, 128);
    // All tokens, but only every 29th output.
    let some: Vec<f32> = dy.chunks(outputs).flat_map(|row| row.iter().step_by(29)).copied().collect();
    let expected = reference::linear_grad_weight(&rounded(&some), &rounded(&x), outputs.div_ceil(29));
    let found: Vec<f32> = read::<f32>(&cpu, grad).chunks(inputs).step_by(29).flatten().copied().collect();
    assert_near(&found, &expected, TOLERANCE, TOLERANCE, "output");
    bencher
        .counter(flops(shape))
        .bench_local(|| cpu.linear_grad_weight_bf16([dy_at, x_at, grad], shape, Accumulate::No, 128));
}

/// `activations.compute_grad_input = "int8"`.
#[divan::bench(args = SHAPES)]
fn grad_input_int8(bencher: Bencher, shape: (usize, usize)) {
    let Layer { mut cpu, planes, w, dy, spans: [_, dy_at, _, dx, _], .. } = layer(shape, Compute::Int8);
    let draws = draws(RngUse::GradInput);
    cpu.linear_grad_input_int8(dy_at, &w, dx, Accumulate::No, &draws);
    let values: Vec<f32> = planes.values().iter().map(|&value| value as f32).collect();
    let values = reference::round_grad_columns(&values, shape.1, shape.0, None);
    let dy = some_rows(&narrow(&reference::round_grad_rows(&dy, shape.0, &draws)), shape.0);
    let expected = reference::linear_grad_input(&wide(&dy), &values, shape.1);
    assert_near(&some_rows(&read::<f32>(&cpu, dx), shape.1), &expected, TOLERANCE, TOLERANCE, "output");
    bencher.counter(flops(shape)).bench_local(|| cpu.linear_grad_input_int8(dy_at, &w, dx, Accumulate::No, &draws));
}

/// `activations.compute_grad_weight = "int8"`, in sequences of 128 tokens.
#[divan::bench(args = SHAPES)]
fn grad_weight_int8(bencher: Bencher, shape: (usize, usize)) {
    let (outputs, inputs) = shape;
    let Layer { mut cpu, x, dy, spans: [x_at, dy_at, .., grad], .. } = layer(shape, Compute::Int8);
    let draws = draws(RngUse::GradWeight);
    cpu.linear_grad_weight_int8([dy_at, x_at, grad], shape, Accumulate::No, 128, &draws);
    let dy = reference::round_grad_columns(&dy, outputs, 128, Some(&draws));
    // All tokens, but only every 29th output.
    let some: Vec<f64> = dy.chunks(outputs).flat_map(|row| row.iter().step_by(29)).copied().collect();
    let x = reference::round_grad_columns(&x, inputs, 128, None);
    let expected = reference::linear_grad_weight(&some, &x, outputs.div_ceil(29));
    let found: Vec<f32> = read::<f32>(&cpu, grad).chunks(inputs).step_by(29).flatten().copied().collect();
    assert_near(&found, &expected, TOLERANCE, TOLERANCE, "output");
    bencher
        .counter(flops(shape))
        .bench_local(|| cpu.linear_grad_weight_int8([dy_at, x_at, grad], shape, Accumulate::No, 128, &draws));
}

fn draws(usage: RngUse) -> RowDraws {
    RowDraws { key: RngKey { seed: 1, step: 1, tensor: 1, usage }, first_row: 0 }
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

fn rounded(x: &[f32]) -> Vec<f64> {
    reference::round_bf16(&wide(x))
}

/// What rules compute with gradients and state, in the shape of `forward`.
#[divan::bench(args = SHAPES)]
fn matmul_of_rules(bencher: Bencher, (outputs, inputs): (usize, usize)) {
    matmul(bencher, [TOKENS, inputs, outputs], [Layout::Plain, Layout::Transposed], 0.0);
}

/// The first product of Muon's iteration, `X^T X` of a tall matrix.
#[divan::bench(args = SHAPES)]
fn matmul_gram(bencher: Bencher, (outputs, inputs): (usize, usize)) {
    let (tall, wide) = (outputs.max(inputs), outputs.min(inputs));
    matmul(bencher, [wide, tall, wide], [Layout::Transposed, Layout::Plain], 0.0);
}

/// The last product of Muon's iteration.
#[divan::bench(args = SHAPES)]
fn matmul_added(bencher: Bencher, (outputs, inputs): (usize, usize)) {
    let (tall, wide) = (outputs.max(inputs), outputs.min(inputs));
    matmul(bencher, [tall, wide, wide], [Layout::Plain, Layout::Transposed], 3.4);
}

fn matmul(bencher: Bencher, [rows, inner, cols]: [usize; 3], [left, right]: [Layout; 2], beta: f32) {
    let mut harness = Harness::default();
    let (x, w) = (floats(3, rows * inner), floats(7, inner * cols));
    let (a, b, out) = (harness.add(&x), harness.add(&w), harness.out(rows * cols));
    let features = rows.max(inner).max(cols);
    let parameter = features * features;
    let largest = MaxShapes {
        tokens: 1,
        features,
        inputs: features,
        keys: 1,
        parameter,
        head_dim: 1,
        prefix: 0,
        compute: Compute::F32,
    };
    let mut cpu = Cpu::new();
    harness.start(&mut cpu, &largest);
    let (a, b, precision) = ((a, left), (b, right), Precision::F32);
    let args = MatMulArgs { a, b, out, rows, inner, cols, alpha: 1.0, beta, precision };
    // The product, and that with what `beta` makes of it.
    cpu.matmul(&MatMulArgs { beta: 0.0, ..args });
    cpu.matmul(&args);
    let some = |at: usize| at.is_multiple_of(cols.div_ceil(7)) || at + 1 == cols;
    let at = |(data, layout): (&[f32], Layout), i: usize, k: usize, shape: (usize, usize)| {
        f64::from(if layout == Layout::Plain { data[i * shape.1 + k] } else { data[k * shape.0 + i] })
    };
    let elements = || (0..rows).step_by(293).flat_map(|i| (0..cols).filter(|&j| some(j)).map(move |j| (i, j)));
    let element = |(i, j)| {
        let product = |k| at((&x, left), i, k, (rows, inner)) * at((&w, right), k, j, (inner, cols));
        (0..inner).map(product).sum::<f64>() * f64::from(1.0 + beta)
    };
    let expected: Vec<f64> = elements().map(element).collect();
    let found = read::<f32>(&cpu, out);
    let found: Vec<f32> = elements().map(|(i, j)| found[i * cols + j]).collect();
    assert_near(&found, &expected, TOLERANCE, TOLERANCE, "output");
    bencher.counter(ItemsCount::new(2 * rows * inner * cols)).bench_local(|| cpu.matmul(&args));
}

/// A product of the `gemm` crate: sizes, then strides (column, row) of the output and both operands.
#[derive(Clone, Copy)]
struct Plain {
    mnk: [usize; 3],
    out: [isize; 2],
    left: [isize; 2],
    right: [isize; 2],
}

fn plain(bencher: Bencher, p: Plain) {
    let [m, n, k] = p.mnk;
    let (left, right, mut out) = (floats(5, m * k), floats(6, k * n), vec![0f32; m * n]);
    bencher.counter(ItemsCount::new(2 * m * n * k)).bench_local(|| {
        // SAFETY: the strides of each caller describe dense matrices of m k, k n and m n elements.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                p.out[0],
                p.out[1],
                false,
                left.as_ptr(),
                p.left[0],
                p.left[1],
                right.as_ptr(),
                p.right[0],
                p.right[1],
                0.0f32,
                1.0f32,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
    });
}

#[divan::bench(args = SHAPES)]
fn forward_gemm_crate_f32(bencher: Bencher, (o, i): (usize, usize)) {
    let (outputs, inputs) = (o as isize, i as isize);
    plain(bencher, Plain { mnk: [TOKENS, o, i], out: [1, outputs], left: [1, inputs], right: [inputs, 1] });
}

#[divan::bench(args = SHAPES)]
fn grad_input_gemm_crate_f32(bencher: Bencher, (o, i): (usize, usize)) {
    let (outputs, inputs) = (o as isize, i as isize);
    plain(bencher, Plain { mnk: [TOKENS, i, o], out: [1, inputs], left: [1, outputs], right: [1, inputs] });
}

#[divan::bench(args = SHAPES)]
fn grad_weight_gemm_crate_f32(bencher: Bencher, (o, i): (usize, usize)) {
    let (outputs, inputs) = (o as isize, i as isize);
    plain(bencher, Plain { mnk: [o, i, TOKENS], out: [1, inputs], left: [outputs, 1], right: [1, inputs] });
}
