//! Products with weights of every kind, and their gradients.

use crate::harness::operands::{FORMATS, Harness, Random};
use tetrad::backend::Accumulate;
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference::{self, wide};
use tetrad::quant::{GROUPS, GroupedShape, Simulation, WeightCodec, WeightFormat};

/// Sums of up to 5461 products of magnitude about one in float32: their error is below 1e-6 of the sum of
/// magnitudes, which is at most some 2000.
const TOLERANCE: f64 = 5e-4;

fn add(a: Vec<f64>, b: &[f32]) -> Vec<f64> {
    a.into_iter().zip(b).map(|(a, &b)| a + f64::from(b)).collect()
}

fn all_three(tokens: usize, shape: GroupedShape, format: WeightFormat) {
    let (mut random, mut harness) = (Random(tokens as u64), Harness::default());
    let (rows, cols) = (shape.rows, shape.cols);
    let planes = random.planes(shape, format);
    let values = planes.values();
    let (x, dy) = (random.floats(tokens * cols), random.floats(tokens * rows));
    let (old_y, old_dx, old_grad) =
        (random.floats(tokens * rows), random.floats(tokens * cols), random.floats(rows * cols));
    let w = harness.weight(&planes);
    let [x_at, dy_at, y2, dx2, grad2] = [&x, &dy, &old_y, &old_dx, &old_grad].map(|data| harness.add(&data[..]));
    let [y, dx, grad] = [tokens * rows, tokens * cols, rows * cols].map(|n| harness.out(n));
    let expected_y = reference::linear(&wide(&x), &values, cols);
    let expected_dx = reference::linear_grad_input(&wide(&dy), &values, cols);
    let expected_grad = reference::linear_grad_weight(&wide(&dy), &wide(&x), rows);
    let expected = [
        (y2, add(expected_y.clone(), &old_y)),
        (dx2, add(expected_dx.clone(), &old_dx)),
        (grad2, add(expected_grad.clone(), &old_grad)),
        (y, expected_y),
        (dx, expected_dx),
        (grad, expected_grad),
    ];
    harness.check(&expected, TOLERANCE, |cpu| {
        for (y, dx, grad, accumulate) in [(y, dx, grad, Accumulate::No), (y2, dx2, grad2, Accumulate::Yes)] {
            cpu.linear(x_at, &w, y, accumulate);
            cpu.linear_grad_input(dy_at, &w, dx, accumulate);
            cpu.linear_grad_weight(dy_at, x_at, grad, rows, cols, accumulate);
        }
    });
}

#[test]
fn every_kind_and_group_at_the_edges_of_tiles() {
    let shapes = [(1, 1, 1), (9, 33, 65), (65, 31, 257), (13, 172, 63), (50, 7, 300), (8, 64, 1)];
    for format in FORMATS {
        for (i, &(tokens, rows, cols)) in shapes.iter().enumerate() {
            all_three(tokens, GroupedShape::new(rows, cols, GROUPS[i % 4]), format);
            all_three(tokens, GroupedShape::new(rows, cols, GROUPS[(i + 1) % 4]), format);
        }
    }
}

#[test]
fn panels_that_do_not_hold_the_whole_weight() {
    let simulations = [Simulation::Int4Rows { offsets: true }, Simulation::Int4 { offsets: true }, Simulation::Fp4];
    for format in [WeightFormat::of(WeightCodec::Int4)].into_iter().chain(simulations.map(WeightFormat::simulated)) {
        all_three(17, GroupedShape::new(40, 5461, 256), format);
        all_three(10, GroupedShape::new(5461, 33, 32), format);
        all_three(3, GroupedShape::new(33, 5461, 128), format);
    }
    all_three(600, GroupedShape::new(100, 120, 32), WeightFormat::of(WeightCodec::Int4));
    all_three(300, GroupedShape::new(600, 1100, 64), WeightFormat::of(WeightCodec::Int4Offset));
}

#[test]
fn nan_in_an_operand_reaches_every_sum_it_belongs_to() {
    let (mut random, mut harness) = (Random(1), Harness::default());
    let planes =
        random.planes(GroupedShape::new(33, 70, 32), WeightFormat::simulated(Simulation::Int4Rows { offsets: true }));
    for tokens in [2, 20] {
        let mut x = random.floats(tokens * 70);
        x[70 + 69] = f32::NAN;
        let mut broken = planes.clone();
        broken.data[4 * 5..4 * 6].copy_from_slice(&f32::NAN.to_le_bytes());
        let (x, w, y) = (harness.add(&x[..]), harness.weight(&broken), harness.out(tokens * 33));
        for isa in Isa::available() {
            let found = harness.run(isa, 2, &[y], |cpu| cpu.linear(x, &w, y, Accumulate::No));
            let nan = |t: usize, o: usize| found[0][t * 33 + o].is_nan();
            assert!((0..33).all(|o| nan(1, o)) && (0..tokens).all(|t| nan(t, 0)) && !nan(0, 1));
        }
    }
}
