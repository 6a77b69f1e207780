//! Gradients of products in integers.

use crate::harness::operands::{FORMATS, Harness, Random, assert_near};
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference::{self, wide};
use tetrad::backend::{Accumulate, Backend, Compute, RowDraws};
use tetrad::memory::Span;
use tetrad::quant::{GROUPS, GroupedShape, RngKey, RngUse, WeightCodec, WeightFormat};

/// Groups are summed exactly; up to 94 of them are added in float32.
const TOLERANCE: f64 = 5e-4;

fn draws(usage: RngUse, first_row: usize) -> RowDraws {
    RowDraws { key: RngKey { seed: 11, step: 5, tensor: 9, usage }, first_row }
}

fn int4() -> WeightFormat {
    WeightFormat::of(WeightCodec::Int4)
}

/// Both gradients, set and added, on every instruction set with 1, 2 and 3 threads.
fn all_of(tokens: usize, sequence: usize, shape: GroupedShape, format: WeightFormat) {
    let (mut random, mut harness) = (Random(tokens as u64), Harness::default());
    let (rows, cols) = (shape.rows, shape.cols);
    let planes = random.planes(shape, format);
    let (x, dy) = (random.floats(tokens * cols), random.floats(tokens * rows));
    let olds @ [old_dx, old_grad] = &[random.floats(tokens * cols), random.floats(rows * cols)];
    let w = harness.weight(&planes);
    let (x_at, dy_at) = (harness.add(&x), harness.add(&dy));
    let set @ [dx, grad] = [tokens * cols, rows * cols].map(|count| harness.out(count));
    let added @ [added_dx, added_grad] = [harness.add(old_dx), harness.add(old_grad)];
    let (of_input, of_weight) = (draws(RngUse::GradInput, 3), draws(RngUse::GradWeight, 3));
    let values: Vec<f32> = planes.values().iter().map(|&value| value as f32).collect();
    let values = reference::round_grad_columns(&values, cols, rows, None);
    let expected = [
        reference::linear_grad_input(&reference::round_grad_rows(&dy, rows, &of_input), &values, cols),
        reference::linear_grad_weight(
            &reference::round_grad_columns(&dy, rows, sequence, Some(&of_weight)),
            &reference::round_grad_columns(&x, cols, sequence, None),
            rows,
        ),
    ];
    let exact = [
        reference::linear_grad_input(&wide(&dy), &planes.values(), cols),
        reference::linear_grad_weight(&wide(&dy), &wide(&x), rows),
    ];
    let mut fused = None;
    for isa in Isa::available() {
        let run = |threads| {
            harness.run_in(Compute::Int8, isa, threads, &[set, added].concat(), |cpu| {
                for (dx, grad, accumulate) in [(dx, grad, Accumulate::No), (added_dx, added_grad, Accumulate::Yes)] {
                    cpu.linear_grad_input_int8(dy_at, &w, dx, accumulate, &of_input);
                    cpu.linear_grad_weight_int8([dy_at, x_at, grad], (rows, cols), accumulate, sequence, &of_weight);
                }
            })
        };
        let found = run(1);
        let what = format!("{format} of {rows} x {cols}, {tokens} tokens in {sequence}, {}", isa.name());
        assert!(found == run(2) && found == run(3), "{what}: threads");
        for (i, (expected, old)) in expected.iter().zip(olds).enumerate() {
            let name = ["input's gradient", "weight's gradient"][i];
            assert_near(&found[i], expected, TOLERANCE, TOLERANCE, &format!("{what}: {name}"));
            let sum: Vec<f64> = expected.iter().zip(old).map(|(a, &b)| a + f64::from(b)).collect();
            assert_near(&found[2 + i], &sum, TOLERANCE, TOLERANCE, &format!("{what}: {name}, added"));
            // Rounding is not large: a step is a 127th of a group's largest magnitude.
            let size = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let error: Vec<f64> = found[i].iter().zip(&exact[i]).map(|(&a, b)| f64::from(a) - b).collect();
            assert!(size(&error) <= 0.05 * size(&exact[i]) + 1e-6, "{what}: {name} is far from what was not rounded");
        }
        // Instructions that fuse end in the same bits, whichever they are.
        if isa.name() != "portable" {
            assert!(*fused.get_or_insert_with(|| found.clone()) == found, "{what}: instruction sets");
        }
    }
}

#[test]
fn every_kind_and_group_at_the_edges_of_tiles() {
    let shapes = [(1, 1, 1), (4, 70, 100), (9, 33, 65), (65, 31, 257), (33, 172, 63), (50, 7, 300), (8, 64, 1)];
    for format in FORMATS.into_iter().filter(|format| Compute::Int8.takes(format.codec())) {
        for (i, &(tokens, rows, cols)) in shapes.iter().enumerate() {
            all_of(tokens, tokens, GroupedShape::new(rows, cols, GROUPS[i % 4]), format);
        }
    }
}

#[test]
fn more_than_is_rounded_or_packed_at_once() {
    for (tokens, sequence, rows, cols) in
        [(70, 35, 40, 6000), (10, 5, 5461, 33), (600, 75, 33, 65), (80, 1, 1100, 1030), (600, 600, 6000, 65)]
    {
        all_of(tokens, sequence, GroupedShape::new(rows, cols, 64), int4());
    }
}

/// Rows and spans of a part of a batch.
fn part(span: Span, (from, count): (usize, usize), width: usize) -> Span {
    span.part(4 * from * width, 4 * count * width)
}

/// Parts of whole sequences, which end within a group: the random numbers are those of the rows in the whole batch.
#[test]
fn a_batch_in_parts_gives_the_same_bits() {
    let (mut random, mut harness) = (Random(5), Harness::default());
    let (sequences, sequence, shape) = (12, 37, GroupedShape::new(40, 70, 32));
    let (tokens, rows, cols) = (sequences * sequence, shape.rows, shape.cols);
    let w = harness.weight(&random.planes(shape, int4()));
    let (x, dy) = (harness.add(&random.floats(tokens * cols)), harness.add(&random.floats(tokens * rows)));
    let [dx, dx_parts] = [(); 2].map(|()| harness.out(tokens * cols));
    let [grad, grad_parts, other_grad] = [(); 3].map(|()| harness.out(rows * cols));
    let gradients = |cpu: &mut dyn Backend, range: (usize, usize), [dx, grad]: [Span; 2], first_row: usize| {
        let accumulate = if range.0 == 0 { Accumulate::No } else { Accumulate::Yes };
        let [of_input, of_weight] = [RngUse::GradInput, RngUse::GradWeight].map(|usage| draws(usage, first_row));
        let (x, dy) = (part(x, range, cols), part(dy, range, rows));
        cpu.linear_grad_input_int8(dy, &w, part(dx, range, cols), Accumulate::No, &of_input);
        cpu.linear_grad_weight_int8([dy, x, grad], (rows, cols), accumulate, sequence, &of_weight);
    };
    for isa in Isa::available() {
        let spans = [dx, dx_parts, grad, grad_parts, other_grad];
        let found = harness.run_in(Compute::Int8, isa, 2, &spans, |cpu| {
            gradients(cpu, (0, tokens), [dx, other_grad], 1);
            gradients(cpu, (0, tokens), [dx, grad], 0);
            for (from, count) in [(0, 5), (5, 1), (6, 6)] {
                let (from, count) = (from * sequence, count * sequence);
                gradients(cpu, (from, count), [dx_parts, grad_parts], from);
            }
        });
        assert!(found[0] == found[1] && found[2] == found[3], "parts, {}", isa.name());
        assert!(found[2] != found[4], "other rows have other random numbers");
    }
}

/// What is not finite makes every sum that it belongs to NaN, and no other.
#[test]
fn what_is_not_finite_reaches_every_sum_it_belongs_to() {
    let (mut random, mut harness) = (Random(1), Harness::default());
    let (tokens, rows, cols) = (20, 33, 70);
    let w = harness.weight(&random.planes(GroupedShape::new(rows, cols, 32), int4()));
    for broken in [f32::NAN, f32::INFINITY] {
        let mut dy = random.floats(tokens * rows);
        dy[3 * rows + 7] = broken;
        let (x, dy) = (harness.add(&random.floats(tokens * cols)), harness.add(&dy));
        let (dx, grad) = (harness.out(tokens * cols), harness.out(rows * cols));
        for isa in Isa::available() {
            let found = harness.run_in(Compute::Int8, isa, 2, &[dx, grad], |cpu| {
                cpu.linear_grad_input_int8(dy, &w, dx, Accumulate::No, &draws(RngUse::GradInput, 0));
                let of_weight = draws(RngUse::GradWeight, 0);
                cpu.linear_grad_weight_int8([dy, x, grad], (rows, cols), Accumulate::No, 10, &of_weight);
            });
            let rows_of_nan = |x: &[f32]| -> Vec<usize> {
                let row = |(i, row): (usize, &[f32])| {
                    let count = row.iter().filter(|x| x.is_nan()).count();
                    assert!(count == 0 || count == cols, "row {i}: {count} of {cols}");
                    (count > 0).then_some(i)
                };
                x.chunks(cols).enumerate().filter_map(row).collect()
            };
            assert_eq!([rows_of_nan(&found[0]), rows_of_nan(&found[1])], [vec![3], vec![7]], "{}", isa.name());
        }
    }
}

/// Magnitudes below the normal ones, for which 127 / most is not finite, are rounded to zero.
#[test]
fn the_smallest_numbers_are_zero() {
    let (mut random, mut harness) = (Random(2), Harness::default());
    let (tokens, rows, cols) = (6, 64, 40);
    let w = harness.weight(&random.planes(GroupedShape::new(rows, cols, 32), int4()));
    let (x, dy) = (harness.add(&random.floats(tokens * cols)), harness.add(&vec![1e-40f32; tokens * rows]));
    let (dx, grad) = (harness.out(tokens * cols), harness.out(rows * cols));
    for isa in Isa::available() {
        let found = harness.run_in(Compute::Int8, isa, 1, &[dx, grad], |cpu| {
            cpu.linear_grad_input_int8(dy, &w, dx, Accumulate::No, &draws(RngUse::GradInput, 0));
            let of_weight = draws(RngUse::GradWeight, 0);
            cpu.linear_grad_weight_int8([dy, x, grad], (rows, cols), Accumulate::No, tokens, &of_weight);
        });
        assert!(found.concat().iter().all(|&x| x == 0.0), "{}", isa.name());
    }
}
