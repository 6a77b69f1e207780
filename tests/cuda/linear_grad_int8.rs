//! Gradients in integers: the bits that a CPU gives for the same operands.

use crate::harness::gpu::{self, orders, set_order};
use crate::harness::operands::{Harness, Random, bf16_floats, read, read_rows};
use half::bf16;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Accumulate, Backend, Compute, MaxShapes, RowDraws};
use tetrad::memory::Span;
use tetrad::quant::{GroupedShape, RngKey, RngUse, WeightCodec, WeightFormat};

const CODES: [WeightFormat; 4] = [
    WeightFormat::of(WeightCodec::Int4),
    WeightFormat::of(WeightCodec::Int4Offset),
    WeightFormat::FP4.with_residue(false),
    WeightFormat::INT8,
];

/// Tokens, those of a sequence, outputs, inputs and group of the weight: around the sizes of tiles, groups and blocks of threads.
const SHAPES: [(usize, usize, usize, usize, usize); 6] = [
    (1, 1, 1, 1, 32),
    (6, 3, 17, 95, 32),
    (9, 9, 64, 33, 128),
    (70, 70, 65, 63, 64),
    (130, 65, 33, 300, 256),
    (128, 128, 131, 72, 64),
];

const fn draws(usage: RngUse) -> RowDraws {
    RowDraws { key: RngKey { seed: 1 << 40 | 7, step: 3, tensor: 11, usage }, first_row: (1 << 33) + 5 }
}

fn largest(tokens: usize, width: usize) -> MaxShapes {
    let compute = Compute::Int8;
    MaxShapes { tokens, features: width, inputs: width, keys: 8, parameter: 1 << 12, head_dim: 16, prefix: 0, compute }
}

/// Sets and adds to both gradients: of the input, then of the weight.
fn gradients(backend: &mut dyn Backend, case: &Case, spans: &[Span; 6], w: &tetrad::backend::Weight) {
    let [x, dy, dx, added_dx, grad, added_grad] = *spans;
    let (rows, cols) = (case.shape.rows, case.shape.cols);
    for (dx, grad, accumulate) in [(dx, grad, Accumulate::No), (added_dx, added_grad, Accumulate::Yes)] {
        backend.linear_grad_input_int8(dy, w, dx, accumulate, &draws(RngUse::GradInput));
        let of_weight = draws(RngUse::GradWeight);
        backend.linear_grad_weight_int8([dy, x, grad], (rows, cols), accumulate, case.sequence, &of_weight);
    }
}

struct Case {
    tokens: usize,
    sequence: usize,
    shape: GroupedShape,
    format: WeightFormat,
    /// An element of the gradient that is not finite.
    broken: Option<usize>,
}

impl Case {
    /// A group of zeros, one of a large number and small ones, and of numbers below any normal one.
    fn operands(&self) -> [Vec<f32>; 3] {
        let (tokens, rows, cols) = (self.tokens, self.shape.rows, self.shape.cols);
        let (mut x, mut dy) = (bf16_floats(1, tokens * cols), bf16_floats(2, tokens * rows));
        dy[..rows.min(64)].fill(0.0);
        dy[rows * tokens - 1] = 300.0;
        if tokens > 2 {
            dy[rows..2 * rows].fill(bf16::from_bits(3).to_f32());
            x.iter_mut().step_by(cols).for_each(|x| *x = 0.0);
        }
        if let Some(at) = self.broken {
            dy[at] = f32::INFINITY;
        }
        [x, dy, bf16_floats(3, tokens * cols)]
    }

    /// On this device as bits of bfloat16 and of float32.
    fn on_gpu(&self, max: MaxShapes) -> ([Vec<u16>; 2], [Vec<u32>; 2]) {
        let (mut harness, [x, dy, old]) = (Harness::default(), self.operands());
        let (rows, cols) = (self.shape.rows, self.shape.cols);
        let w = harness.weight(&Random(rows as u64).planes(self.shape, self.format));
        let spans = [
            harness.activations(&x, cols),
            harness.activations(&dy, rows),
            harness.rows(self.tokens, cols),
            harness.activations(&old, cols),
            harness.out(rows * cols),
            harness.add(&bf16_floats(4, rows * cols)),
        ];
        let mut cuda = gpu::open();
        harness.start(&mut cuda, &max);
        gradients(&mut cuda, self, &spans, &w);
        let bits = |span: Span| read::<f32>(&cuda, span).iter().map(|x| x.to_bits()).collect();
        ([spans[2], spans[3]].map(|span| read_rows(&cuda, span, cols)), [spans[4], spans[5]].map(bits))
    }

    /// On a CPU, whose gradients of inputs are then rounded to bfloat16.
    fn on_cpu(&self) -> ([Vec<u16>; 2], [Vec<u32>; 2]) {
        let (mut harness, [x, dy, old]) = (Harness::default(), self.operands());
        let (rows, cols) = (self.shape.rows, self.shape.cols);
        let w = harness.weight(&Random(rows as u64).planes(self.shape, self.format));
        let spans = [
            harness.add(&x),
            harness.add(&dy),
            harness.out(self.tokens * cols),
            harness.add(&old),
            harness.out(rows * cols),
            harness.add(&bf16_floats(4, rows * cols)),
        ];
        let mut cpu = Cpu::new();
        harness.start(&mut cpu, &largest(300, 300));
        gradients(&mut cpu, self, &spans, &w);
        let rounded =
            |span: Span| read::<f32>(&cpu, span).iter().map(|&x| bf16::from_f32(x).to_bits()).collect::<Vec<_>>();
        let bits = |span: Span| read::<f32>(&cpu, span).iter().map(|x| x.to_bits()).collect();
        ([spans[2], spans[3]].map(rounded), [spans[4], spans[5]].map(bits))
    }
}

fn check(case: &Case, max: MaxShapes, note: &str) {
    let what = format!("{:?}, {:?}, {} tokens, {note}", case.shape, case.format, case.tokens);
    let (found, expected) = (case.on_gpu(max), case.on_cpu());
    for i in 0..2 {
        assert!(found.0[i] == expected.0[i], "{what}: the gradient of an input, {i}");
        assert!(found.1[i] == expected.1[i], "{what}: the gradient of a weight, {i}");
    }
}

/// Whether the CPU's sums are fused, as the device's are.
fn fuses() -> bool {
    tetrad::backend::cpu::Isa::best().name() != "portable"
}

#[test]
fn gradients_in_integers_have_the_bits_of_a_cpu() {
    if !fuses() {
        eprintln!("SKIPPED: this processor does not fuse, and its sums have other bits");
        return;
    }
    for order in orders() {
        set_order(order);
        for format in CODES {
            for (tokens, sequence, rows, cols, group) in SHAPES {
                let case = Case { tokens, sequence, shape: GroupedShape::new(rows, cols, group), format, broken: None };
                check(&case, largest(130, 300), &format!("order {order}"));
            }
        }
    }
}

/// More than a tile of everything, and workspace for a tile of either operand.
#[test]
fn gradients_of_several_tiles_and_in_little_workspace() {
    if !fuses() {
        eprintln!("SKIPPED: this processor does not fuse, and its sums have other bits");
        return;
    }
    set_order(1);
    let of = |tokens, sequence, rows, cols| Case {
        tokens,
        sequence,
        shape: GroupedShape::new(rows, cols, 64),
        format: CODES[0],
        broken: None,
    };
    check(&of(200, 100, 140, 270), largest(200, 270), "several tiles");
    check(&of(270, 135, 260, 300), largest(1, 300), "in parts");
    // More groups than are summed at once.
    check(&of(260, 1, 3, 5), largest(260, 64), "groups of one token");
}

/// What is not finite makes every sum that it belongs to NaN, and no other.
#[test]
fn what_is_not_finite_reaches_every_sum_it_belongs_to() {
    set_order(0);
    let (tokens, shape) = (6, GroupedShape::new(70, 33, 32));
    let case = Case { tokens, sequence: 3, shape, format: CODES[0], broken: Some(4 * 70 + 66) };
    let (dx, grad) = case.on_gpu(largest(20, 100));
    for (i, row) in dx[0].chunks(33).enumerate() {
        assert!(row.iter().all(|&bits| bf16::from_bits(bits).is_nan() == (i == 4)), "row {i} of the input's gradient");
    }
    for (i, row) in grad[0].chunks(33).enumerate() {
        assert!(row.iter().all(|&bits| f32::from_bits(bits).is_nan() == (i == 66)), "row {i} of the weight's gradient");
    }
}
