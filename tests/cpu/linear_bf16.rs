//! Products of operands rounded to bfloat16.

use crate::harness::operands::{FORMATS, Harness, Random, assert_near};
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference::{self, wide};
use tetrad::backend::{Accumulate, Compute};
use tetrad::memory::Span;
use tetrad::quant::{GROUPS, GroupedShape, WeightCodec, WeightFormat};

/// Sums of up to 6000 products in float32.
const TOLERANCE: f64 = 5e-4;

/// Forward, backward and the weight's gradient, set and added, on every instruction set with 1, 2 and 3 threads.
fn all_of(tokens: usize, sequence: usize, shape: GroupedShape, format: WeightFormat) {
    let (mut random, mut harness) = (Random(tokens as u64), Harness::default());
    let (rows, cols) = (shape.rows, shape.cols);
    let planes = random.planes(shape, format);
    let (x, dy) = (random.floats(tokens * cols), random.floats(tokens * rows));
    let (old_y, old_dx, old_grad) =
        (random.floats(tokens * rows), random.floats(tokens * cols), random.floats(rows * cols));
    let w = harness.weight(&planes);
    let (x_at, dy_at) = (harness.add(&x), harness.add(&dy));
    let set @ [y, dx, grad] = [tokens * rows, tokens * cols, rows * cols].map(|count| harness.out(count));
    let added @ [added_y, added_dx, added_grad] = [&old_y, &old_dx, &old_grad].map(|old| harness.add(old));
    let round = |x: &[f32]| reference::round_bf16(&wide(x));
    let values = reference::round_bf16(&planes.values());
    let (x, dy) = (round(&x), round(&dy));
    let expected = [
        reference::linear(&x, &values, cols),
        reference::linear_grad_input(&dy, &values, cols),
        reference::linear_grad_weight(&dy, &x, rows),
    ];
    let mut first = None;
    for isa in Isa::available() {
        let run = |threads| {
            harness.run_in(Compute::Bf16, isa, threads, &[set, added].concat(), |cpu| {
                for (y, dx, grad, accumulate) in
                    [(y, dx, grad, Accumulate::No), (added_y, added_dx, added_grad, Accumulate::Yes)]
                {
                    cpu.linear_bf16(x_at, &[(&w, y)], accumulate);
                    cpu.linear_grad_input_bf16(dy_at, &w, dx, accumulate);
                    cpu.linear_grad_weight_bf16([dy_at, x_at, grad], (rows, cols), accumulate, sequence);
                }
            })
        };
        let found = run(1);
        let what = format!("{format} of {rows} x {cols}, {tokens} tokens, {}", isa.name());
        assert!(found == run(2) && found == run(3), "{what}: threads");
        let olds = [&old_y, &old_dx, &old_grad];
        for (i, (expected, old)) in expected.iter().zip(olds).enumerate() {
            let name = ["output", "input's gradient", "weight's gradient"][i];
            assert_near(&found[i], expected, TOLERANCE, TOLERANCE, &format!("{what}: {name}"));
            let sum: Vec<f64> = expected.iter().zip(old).map(|(a, &b)| a + f64::from(b)).collect();
            assert_near(&found[3 + i], &sum, TOLERANCE, TOLERANCE, &format!("{what}: {name}, added"));
        }
        assert!(*first.get_or_insert_with(|| found.clone()) == found, "{what}: instruction sets");
    }
}

#[test]
fn every_kind_and_group_at_the_edges_of_tiles() {
    let shapes = [(1, 1, 1), (4, 70, 100), (9, 33, 65), (65, 31, 257), (33, 172, 63), (50, 7, 300), (8, 64, 1)];
    for format in FORMATS {
        for (i, &(tokens, rows, cols)) in shapes.iter().enumerate() {
            all_of(tokens, tokens, GroupedShape::new(rows, cols, GROUPS[i % 4]), format);
        }
    }
}

#[test]
fn more_than_is_rounded_or_packed_at_once() {
    let int4 = WeightFormat::of(WeightCodec::Int4);
    for (tokens, sequence, rows, cols) in
        [(70, 35, 40, 6000), (10, 5, 5461, 33), (2100, 70, 33, 65), (7, 1, 1100, 1030)]
    {
        all_of(tokens, sequence, GroupedShape::new(rows, cols, 64), int4);
    }
}

/// Parts of whole sequences, which end within a block, and several weights at once.
#[test]
fn a_batch_in_parts_gives_the_same_bits() {
    let (mut random, mut harness) = (Random(5), Harness::default());
    let (sequences, sequence, shape) = (12, 37, GroupedShape::new(40, 70, 32));
    let (tokens, rows, cols) = (sequences * sequence, shape.rows, shape.cols);
    let planes = [(); 2].map(|()| random.planes(shape, WeightFormat::of(WeightCodec::Int4)));
    let [w, other] = [0, 1].map(|i| harness.weight(&planes[i]));
    let (x, dy) = (harness.add(&random.floats(tokens * cols)), harness.add(&random.floats(tokens * rows)));
    let [y, y_parts, both, y_both] = [(); 4].map(|()| harness.out(tokens * rows));
    let [dx, dx_parts] = [(); 2].map(|()| harness.out(tokens * cols));
    let [grad, grad_parts] = [(); 2].map(|()| harness.out(rows * cols));
    for isa in Isa::available() {
        let spans = [y, y_parts, dx, dx_parts, grad, grad_parts, both, y_both];
        let found = harness.run_in(Compute::Bf16, isa, 2, &spans, |cpu| {
            cpu.linear_bf16(x, &[(&w, y)], Accumulate::No);
            cpu.linear_bf16(x, &[(&other, both), (&w, y_both)], Accumulate::No);
            cpu.linear_grad_input_bf16(dy, &w, dx, Accumulate::No);
            cpu.linear_grad_weight_bf16([dy, x, grad], (rows, cols), Accumulate::No, sequence);
            for (from, count) in [(0, 5), (5, 1), (6, 6)] {
                let part =
                    |span: Span, width: usize| span.part(4 * from * sequence * width, 4 * count * sequence * width);
                let (x, dy) = (part(x, cols), part(dy, rows));
                let accumulate = if from == 0 { Accumulate::No } else { Accumulate::Yes };
                cpu.linear_bf16(x, &[(&w, part(y_parts, rows))], Accumulate::No);
                cpu.linear_grad_input_bf16(dy, &w, part(dx_parts, cols), Accumulate::No);
                cpu.linear_grad_weight_bf16([dy, x, grad_parts], (rows, cols), accumulate, sequence);
            }
        });
        for pair in found[..6].chunks(2) {
            assert!(pair[0] == pair[1], "parts, {}", isa.name());
        }
        assert!(found[7] == found[0] && found[6] != found[0], "several weights, {}", isa.name());
    }
}

/// A gradient so small that products of it would be subnormal, and numbers that are not finite.
#[test]
fn small_numbers_are_zero_and_what_is_not_finite_stays() {
    let (mut random, mut harness) = (Random(5), Harness::default());
    let (tokens, shape) = (6, GroupedShape::new(40, 70, 32));
    let w = harness.weight(&random.planes(shape, WeightFormat::of(WeightCodec::Int4)));
    let mut dy = random.floats(tokens * shape.rows);
    dy[..shape.rows].fill(1e-25);
    dy[shape.rows..2 * shape.rows].iter_mut().for_each(|x| *x *= 1e-20);
    (dy[2 * shape.rows], dy[3 * shape.rows]) = (f32::NAN, f32::INFINITY);
    let (dy, dx) = (harness.add(&dy), harness.out(tokens * shape.cols));
    let mut first = None;
    for isa in Isa::available() {
        let found =
            harness.run_in(Compute::Bf16, isa, 2, &[dx], |cpu| cpu.linear_grad_input_bf16(dy, &w, dx, Accumulate::No));
        let rows: Vec<&[f32]> = found[0].chunks(shape.cols).collect();
        assert!(rows[0].iter().all(|&x| x == 0.0), "{}", isa.name());
        assert!(rows[1].iter().any(|&x| x != 0.0) && rows[1].iter().all(|x| x.abs() < 1e-17), "{}", isa.name());
        assert!(rows[2].iter().all(|x| x.is_nan()) && rows[3].iter().all(|x| !x.is_finite()), "{}", isa.name());
        assert!(rows[4].iter().all(|x| x.is_finite()), "{}", isa.name());
        let bits: Vec<u32> = found[0].iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect();
        assert!(*first.get_or_insert_with(|| bits.clone()) == bits, "{}", isa.name());
    }
}
