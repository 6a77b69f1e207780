//! What rules compute with whole matrices: the bytes of a CPU.

use crate::harness::gpu::{open_all, orders, set_order};
use crate::harness::operands::{Harness, Random, read};
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::{Backend, Compute, Layout, MatMulArgs, MaxShapes, Precision};

/// Scratch for all shapes below.
const LARGEST: MaxShapes = MaxShapes {
    tokens: 1,
    features: 1,
    inputs: 1,
    keys: 1,
    parameter: 1 << 17,
    head_dim: 32,
    prefix: 0,
    compute: Compute::F32,
};

/// Shapes of several tiles, of several runs of 256 products, and of parts of each.
const SHAPES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (64, 16, 64), (65, 15, 63), (24, 40, 24), (130, 300, 5), (3, 529, 131)];

#[test]
fn products_have_the_bytes_of_a_cpu() {
    assert_ne!(Isa::best().name(), "portable", "this test needs a processor with fused multiplication and addition");
    let (mut random, mut devices) = (Random(3), open_all());
    let layouts = [Layout::Plain, Layout::Transposed];
    for (case, (rows, inner, cols)) in SHAPES.into_iter().enumerate() {
        for (a_layout, b_layout) in layouts.into_iter().flat_map(|a| layouts.map(|b| (a, b))) {
            let precisions = [(1.0, 0.0, Precision::F32), (-0.7, 1.3, Precision::F32), (0.3, 1.0, Precision::Bf16)];
            for (alpha, beta, precision) in precisions {
                let mut harness = Harness::default();
                let [a, b, old] = [rows * inner, inner * cols, rows * cols].map(|count| random.floats(count));
                let old = if beta == 0.0 { vec![f32::NAN; old.len()] } else { old };
                let [a, b, out] = [a, b, old].map(|values| harness.add(&values[..]));
                let (a, b) = ((a, a_layout), (b, b_layout));
                let args = MatMulArgs { a, b, out, rows, inner, cols, alpha, beta, precision };
                let product = |backend: &mut dyn Backend| {
                    harness.start(backend, &LARGEST);
                    backend.matmul(&args);
                    read::<u32>(backend, out)
                };
                let wanted = product(&mut Cpu::new());
                for order in orders().take(if case == 2 { 4 } else { 1 }) {
                    set_order(order);
                    for (name, cuda) in &mut devices {
                        assert!(product(cuda) == wanted, "{name}, order {order}: {args:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn scaled_numbers_have_the_bytes_of_a_cpu() {
    let (mut random, mut devices) = (Random(4), open_all());
    // Leaves of 16,384: a part of one, one, several whose number is no power of two.
    for count in [1, 300, 16_384, 100_000] {
        let mut harness = Harness::default();
        let x = harness.add(&random.floats(count)[..]);
        for precision in [Precision::F32, Precision::Bf16] {
            let work = |backend: &mut dyn Backend| {
                harness.start(backend, &LARGEST);
                backend.scale(x, 3.7, precision);
                backend.unit_norm(x, 1e-7, precision);
                read::<u32>(backend, x)
            };
            let wanted = work(&mut Cpu::new());
            for (name, cuda) in &mut devices {
                assert!(work(cuda) == wanted, "{name}: {count} elements, {precision:?}");
            }
        }
    }
}
