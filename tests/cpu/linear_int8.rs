//! Forward products in integers.

use crate::harness::operands::{FORMATS, Harness, Random, assert_near};
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference::{self, wide};
use tetrad::backend::{Accumulate, Compute};
use tetrad::memory::Span;
use tetrad::quant::{GROUPS, GroupedShape, WeightCodec, WeightFormat};

/// Groups are summed exactly; up to 188 of them are added in float32.
const TOLERANCE: f64 = 5e-4;

/// A product and one that is added to what was there, on every instruction set with 1, 2 and 3 threads.
fn both(tokens: usize, shape: GroupedShape, format: WeightFormat) {
    let (mut random, mut harness) = (Random(tokens as u64), Harness::default());
    let (rows, cols) = (shape.rows, shape.cols);
    let planes = random.planes(shape, format);
    let (x, old) = (random.floats(tokens * cols), random.floats(tokens * rows));
    let (w, x_at, added, y) = (harness.weight(&planes), harness.add(&x), harness.add(&old), harness.out(tokens * rows));
    let rounded = if format.is_quantized() { reference::round_int8(&x, cols, shape.group) } else { wide(&x) };
    let expected = reference::linear(&rounded, &planes.values(), cols);
    let sum: Vec<f64> = expected.iter().zip(&old).map(|(a, &b)| a + f64::from(b)).collect();
    let mut fused = None;
    for isa in Isa::available() {
        let run = |threads| {
            harness.run_in(Compute::Int8, isa, threads, &[y, added], |cpu| {
                cpu.linear_int8(x_at, &[(&w, y)], Accumulate::No);
                cpu.linear_int8(x_at, &[(&w, added)], Accumulate::Yes);
            })
        };
        let found = run(1);
        let what = format!("{format} of {rows} x {cols} in groups of {}, {tokens} tokens, {}", shape.group, isa.name());
        assert!(found == run(2) && found == run(3), "{what}: threads");
        assert_near(&found[0], &expected, TOLERANCE, TOLERANCE, &what);
        assert_near(&found[1], &sum, TOLERANCE, TOLERANCE, &format!("{what}, added"));
        // Instructions that fuse end in the same bits, whichever they are.
        if format.is_quantized() && isa.name() != "portable" {
            assert!(*fused.get_or_insert_with(|| found.clone()) == found, "{what}: instruction sets");
        }
    }
}

#[test]
fn every_kind_and_group_at_the_edges_of_tiles() {
    let shapes = [(1, 1, 1), (4, 70, 100), (9, 33, 65), (65, 31, 257), (13, 172, 63), (50, 7, 300), (8, 64, 1)];
    for format in FORMATS {
        for (i, &(tokens, rows, cols)) in shapes.iter().enumerate() {
            both(tokens, GroupedShape::new(rows, cols, GROUPS[i % 4]), format);
            both(tokens, GroupedShape::new(rows, cols, GROUPS[(i + 1) % 4]), format);
        }
    }
}

#[test]
fn more_than_is_rounded_or_packed_at_once() {
    for codec in [WeightCodec::Int4, WeightCodec::Int4Offset, WeightCodec::Int8] {
        both(600, GroupedShape::new(40, 6000, 32), WeightFormat::of(codec));
        both(10, GroupedShape::new(5461, 33, 32), WeightFormat::of(codec));
        both(3, GroupedShape::new(33, 5461, 128), WeightFormat::of(codec));
    }
    both(17, GroupedShape::new(700, 5461, 256), WeightFormat::of(WeightCodec::Fp4));
}

#[test]
fn a_batch_in_parts_gives_the_same_bits() {
    let (mut random, mut harness) = (Random(5), Harness::default());
    let (tokens, shape) = (500, GroupedShape::new(40, 6000, 32));
    let planes = random.planes(shape, WeightFormat::of(WeightCodec::Int4));
    let x = random.floats(tokens * shape.cols);
    let (w, x, whole, parts) =
        (harness.weight(&planes), harness.add(&x), harness.out(tokens * shape.rows), harness.out(tokens * shape.rows));
    let rows = |span: Span, from: usize, to: usize, width: usize| span.part(4 * from * width, 4 * (to - from) * width);
    for isa in Isa::available() {
        let found = harness.run_in(Compute::Int8, isa, 2, &[whole, parts], |cpu| {
            cpu.linear_int8(x, &[(&w, whole)], Accumulate::No);
            for (from, to) in [(0, 5), (5, 494), (494, 500)] {
                let (x, y) = (rows(x, from, to, shape.cols), rows(parts, from, to, shape.rows));
                cpu.linear_int8(x, &[(&w, y)], Accumulate::No);
            }
        });
        assert!(found[0] == found[1], "{}", isa.name());
    }
}

#[test]
fn what_is_not_finite_reaches_every_sum_it_belongs_to() {
    let (mut random, mut harness) = (Random(1), Harness::default());
    let planes = random.planes(GroupedShape::new(33, 70, 32), WeightFormat::of(WeightCodec::Int4));
    for tokens in [2, 20] {
        for broken in [f32::NAN, f32::INFINITY] {
            let mut x = random.floats(tokens * 70);
            x[70 + 69] = broken;
            let (x, w, y) = (harness.add(&x[..]), harness.weight(&planes), harness.out(tokens * 33));
            for isa in Isa::available() {
                let found =
                    harness.run_in(Compute::Int8, isa, 2, &[y], |cpu| cpu.linear_int8(x, &[(&w, y)], Accumulate::No));
                let nan = |t: usize| found[0][t * 33..][..33].iter().filter(|y| y.is_nan()).count();
                assert!(nan(1) == 33 && nan(0) == 0, "{broken}: {}", isa.name());
            }
        }
    }
}

/// Magnitudes below the normal ones, for which 127 / most is not finite, are rounded to zero.
#[test]
fn the_smallest_numbers_are_zero() {
    let (mut random, mut harness) = (Random(2), Harness::default());
    let planes = random.planes(GroupedShape::new(8, 64, 64), WeightFormat::of(WeightCodec::Int4));
    let x = [1e-40f32; 6 * 64];
    let (x, w, y) = (harness.add(&x[..]), harness.weight(&planes), harness.out(6 * 8));
    for isa in Isa::available() {
        let found = harness.run_in(Compute::Int8, isa, 1, &[y], |cpu| cpu.linear_int8(x, &[(&w, y)], Accumulate::No));
        assert!(found[0].iter().all(|&y| y == 0.0), "{}: {:?}", isa.name(), found[0]);
    }
}
