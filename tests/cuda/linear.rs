//! Products with packed weights, lookups in packed tables, and their gradients, against the float64 reference.

use crate::harness::gpu::{self, orders, set_order};
use crate::harness::operands::{self, BF16, Harness, assert_near, bf16_floats, read_activations, read_floats, words};
use half::{bf16, f16};
use tetrad::backend::ops::reference::{self, Planes, wide};
use tetrad::backend::prelude::*;
use tetrad::backend::{Accumulate, Backend, Compute, MaxShapes};
use tetrad::memory::Span;
use tetrad::quant::{GroupedShape, Simulation, WeightCodec, WeightFormat};
use zerocopy::IntoBytes;

const FORMATS: [WeightFormat; 11] = [
    WeightFormat::of(WeightCodec::Int4),
    WeightFormat::of(WeightCodec::Int4Offset),
    WeightFormat::FP4.with_residue(false),
    WeightFormat::INT8,
    WeightFormat::BF16,
    WeightFormat::F32,
    WeightFormat::simulated(Simulation::Int4 { offsets: false }),
    WeightFormat::simulated(Simulation::Int4 { offsets: true }),
    WeightFormat::simulated(Simulation::Int4Rows { offsets: false }),
    WeightFormat::simulated(Simulation::Int4Rows { offsets: true }),
    WeightFormat::simulated(Simulation::Fp4),
];

fn largest(parameter: usize) -> MaxShapes {
    MaxShapes {
        tokens: 20,
        features: 700,
        inputs: 700,
        keys: 8,
        parameter,
        head_dim: 16,
        prefix: 0,
        compute: Compute::F32,
    }
}

fn planes(seed: u64, rows: usize, cols: usize, group: usize, format: WeightFormat) -> Planes {
    let shape = GroupedShape::new(rows, cols, group);
    let random = |count| words(seed, count).map(|word| (word >> 24) as u8).collect::<Vec<_>>();
    let scales = |base: f32| {
        bf16_floats(seed + 1, shape.groups())
            .iter()
            .flat_map(|x| f16::from_f32(base + 0.01 * x).to_le_bytes())
            .collect::<Vec<_>>()
    };
    let (data, scales, offsets) = match format.codec() {
        WeightCodec::Int4Offset => (random(shape.nibble_bytes()), scales(0.04), scales(-0.3)),
        WeightCodec::Int4 => (random(shape.nibble_bytes()), scales(0.04), vec![]),
        WeightCodec::Fp4 => {
            let scales = words(seed + 1, shape.groups()).map(|word| 120 + (word >> 30) as u8).collect();
            (random(shape.nibble_bytes()), scales, vec![])
        }
        WeightCodec::Int8 => (random(shape.padded_len()), scales(0.02), vec![]),
        WeightCodec::Bf16 => (operands::narrow(&bf16_floats(seed, shape.len())).as_bytes().to_vec(), vec![], vec![]),
        _ => (bf16_floats(seed, shape.len()).as_bytes().to_vec(), vec![], vec![]),
    };
    Planes { shape, format, data, scales, offsets }
}

/// What a product reads: the stored values, rounded to bfloat16.
fn values(planes: &Planes) -> Vec<f64> {
    planes.values().iter().map(|&x| bf16::from_f64(x).to_f64()).collect()
}

/// `a[m, k] b[n, k]^T`, and the sums of the terms' magnitudes: what roundings are relative to.
fn products(a: &[f64], b: &[f64], k: usize) -> (Vec<f64>, Vec<f64>) {
    let magnitudes = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
    (reference::linear(a, b, k), reference::linear(&magnitudes(a), &magnitudes(b), k))
}

fn transposed(x: &[f64], cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|c| x.iter().skip(c).step_by(cols).copied().collect::<Vec<_>>()).collect()
}

/// Within one rounding to bfloat16 of the sum, and float32 roundings of its terms. Weights of few tokens are not rounded
/// to bfloat16 first, which is one more rounding per term.
fn near(found: &[f64], (sums, sizes): &(Vec<f64>, Vec<f64>), added: &[f64], weights: f64, what: &str) {
    for (i, &found) in found.iter().enumerate() {
        let expected = sums[i] + added[i];
        let allowed = BF16 * expected.abs() + (1e-5 + weights) * sizes[i] + 1e-6;
        assert!((found - expected).abs() <= allowed, "{what}[{i}]: {found}, not {expected} +- {allowed}");
    }
}

#[test]
fn products_with_every_kind_of_weight() {
    for order in orders() {
        set_order(order);
        for format in FORMATS {
            for (t, o, i, group) in
                [(1, 1, 1, 32), (1, 17, 95, 32), (3, 9, 256, 64), (8, 40, 33, 128), (9, 33, 300, 256), (20, 24, 64, 32)]
            {
                product(t, o, i, group, format, largest(1 << 16), &format!("order {order}"));
            }
        }
    }
}

/// Scratch for less than half of the weight: panels of rows forward and of columns backward.
#[test]
fn products_with_weights_in_panels() {
    set_order(0);
    for format in FORMATS {
        product(12, 300, 650, 128, format, largest(86_000), "panels");
    }
    // The gradient, whose rows are not aligned, in panels of rows.
    product(12, 300, 333, 128, FORMATS[0], largest(86_000), "staged");
}

/// cuBLASLt was given rows and sums up to the next multiple of eight: behind each row of the outputs is what zeros gave.
fn padded_with_zeros(cuda: &dyn Backend, rows: Span, width: usize, what: &str) {
    for row in operands::read::<u16>(cuda, rows).chunks_exact(operands::pitch(width)) {
        assert!(row[width..].iter().all(|&bits| bits == 0), "{what}: {:x?}", &row[width..]);
    }
}

fn product(t: usize, o: usize, i: usize, group: usize, format: WeightFormat, largest: MaxShapes, note: &str) {
    let what = format!("{t} tokens, {o} x {i} in groups of {group}, {format:?}, {note}");
    let planes = planes(o as u64, o, i, group, format);
    let (x, dy, old_y, old_x) =
        (bf16_floats(1, t * i), bf16_floats(2, t * o), bf16_floats(3, t * o), bf16_floats(4, t * i));
    let mut harness = Harness::default();
    let w = harness.weight(&planes);
    let (x_at, dy_at) = (harness.activations(&x, i), harness.activations(&dy, o));
    let (y, y_sum, dx, dx_sum) =
        (harness.rows(t, o), harness.activations(&old_y, o), harness.rows(t, i), harness.activations(&old_x, i));
    let (grad, old) = (harness.room(4 * o * i), bf16_floats(5, o * i));
    let grad_sum = harness.add(&old);
    let mut cuda = gpu::open();
    harness.start(&mut cuda, &largest);
    cuda.linear(x_at, &w, y, Accumulate::No);
    cuda.linear(x_at, &w, y_sum, Accumulate::Yes);
    cuda.linear_grad_input(dy_at, &w, dx, Accumulate::No);
    cuda.linear_grad_input(dy_at, &w, dx_sum, Accumulate::Yes);
    cuda.linear_grad_weight(dy_at, x_at, grad, o, i, Accumulate::No);
    cuda.linear_grad_weight(dy_at, x_at, grad_sum, o, i, Accumulate::Yes);
    // Of few tokens, and with weights that are read in place, nothing is padded.
    if t > 8 && !(format.codec() == WeightCodec::Bf16 && operands::pitch(i) == i) {
        padded_with_zeros(&cuda, y, o, &format!("y of {what}"));
        padded_with_zeros(&cuda, dx, i, &format!("dx of {what}"));
    }
    let (w, zeros) = (values(&planes), vec![0.0; t * o.max(i)]);
    let forward = products(&wide(&x), &w, i);
    let rounded = if t <= 8 { BF16 } else { 0.0 };
    near(&read_activations(&cuda, y, o), &forward, &zeros, rounded, &format!("y of {what}"));
    near(&read_activations(&cuda, y_sum, o), &forward, &wide(&old_y), rounded, &format!("y + of {what}"));
    let input = products(&wide(&dy), &transposed(&w, i), o);
    near(&read_activations(&cuda, dx, i), &input, &zeros, 0.0, &format!("dx of {what}"));
    near(&read_activations(&cuda, dx_sum, i), &input, &wide(&old_x), 0.0, &format!("dx + of {what}"));
    let weight = reference::linear_grad_weight(&wide(&dy), &wide(&x), o);
    assert_near(&read_floats(&cuda, grad), &weight, 1e-5, 1e-5, &format!("dw of {what}"));
    let sum: Vec<f64> = weight.iter().zip(&old).map(|(x, &y)| x + f64::from(y)).collect();
    assert_near(&read_floats(&cuda, grad_sum), &sum, 1e-5, 1e-5, &format!("dw + of {what}"));
}

#[test]
fn lookups_in_every_kind_of_table() {
    for order in orders() {
        set_order(order);
        for format in FORMATS.into_iter().take(6) {
            for (vocab, cols, group) in [(1, 1, 32), (5, 95, 32), (300, 40, 64), (7, 2500, 256)] {
                let planes = planes(vocab as u64, vocab, cols, group, format);
                let tokens: Vec<u32> = words(1, 40).map(|word| word % vocab as u32).chain([vocab as u32]).collect();
                let mut harness = Harness::default();
                let table = harness.weight(&planes);
                let (at, out) = (harness.add(&tokens), harness.rows(41, cols));
                let mut cuda = gpu::open();
                harness.start(&mut cuda, &largest(1 << 16));
                cuda.embedding(at, &table, out);
                let (found, table) = (read_activations(&cuda, out, cols), values(&planes));
                for (t, &token) in tokens[..40].iter().enumerate() {
                    let row = &table[token as usize * cols..][..cols];
                    assert!(found[t * cols..][..cols] == *row, "row {t} of {vocab} x {cols}, {format:?}");
                }
                assert!(found[40 * cols..].iter().all(|x| x.is_nan()), "a token beyond the table");
            }
        }
    }
}

#[test]
fn the_gradient_of_a_table_adds_every_occurrence_in_order() {
    for order in orders() {
        set_order(order);
        for (vocab, cols, count) in [(1, 1, 1), (3, 7, 600), (50, 40, 777), (1000, 300, 64), (2, 9, 513)] {
            // Some tokens are rare, one is everywhere, one is beyond the table.
            let token = |word: u32| if word.is_multiple_of(3) { 0 } else { word % (vocab as u32 + 1) };
            let tokens: Vec<u32> = words(2, count).map(|word| token(word >> 4)).collect();
            let (dout, old) = (bf16_floats(3, count * cols), bf16_floats(4, vocab * cols));
            let mut harness = Harness::default();
            let (at, dout_at, grad) = (harness.add(&tokens), harness.activations(&dout, cols), harness.add(&old));
            let mut cuda = gpu::open();
            harness.start(&mut cuda, &largest(1 << 16));
            cuda.embedding_grad(at, dout_at, grad, cols);
            // The same float32 additions in the same order.
            let mut expected = old.clone();
            for (t, &token) in tokens.iter().enumerate().filter(|&(_, &token)| (token as usize) < vocab) {
                for c in 0..cols {
                    expected[token as usize * cols + c] += dout[t * cols + c];
                }
            }
            assert!(read_floats(&cuda, grad) == wide(&expected), "{vocab} x {cols}, {count} tokens, order {order}");
        }
    }
}
