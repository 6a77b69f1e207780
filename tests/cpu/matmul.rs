//! Products of float32 matrices, of several blocks and runs.

use crate::harness::operands::{BF16, Harness, Random};
use tetrad::backend::ops::reference::{self, wide};
use tetrad::backend::{Layout, MatMulArgs, Precision};

#[test]
fn matmul() {
    let mut random = Random(5);
    let layouts = [Layout::Plain, Layout::Transposed];
    for (rows, inner, cols) in [(1, 1, 1), (13, 600, 33), (193, 257, 40), (30, 16, 300), (20, 2100, 300)] {
        for (a_layout, b_layout) in layouts.into_iter().flat_map(|a| layouts.map(|b| (a, b))) {
            let precisions = [(1.0, 0.0, Precision::F32), (-0.5, 1.5, Precision::F32), (0.3, 1.0, Precision::Bf16)];
            for (alpha, beta, precision) in precisions {
                let mut harness = Harness::default();
                let [a, b, old] = [rows * inner, inner * cols, rows * cols].map(|count| random.floats(count));
                let [a_at, b_at, out] = [&a, &b, &old].map(|values| harness.add(&values[..]));
                let (a_at, b_at) = ((a_at, a_layout), (b_at, b_layout));
                let args = MatMulArgs { a: a_at, b: b_at, out, rows, inner, cols, alpha, beta, precision };
                let expected = reference::matmul(&args, &wide(&a), &wide(&b), &wide(&old));
                // Where a sum is near a half, another rounding of it changes the result by a unit in the last place.
                let tolerance = if precision == Precision::Bf16 { 2.0 * BF16 } else { 1e-4 };
                harness.check(&[(out, expected)], tolerance, |cpu| cpu.matmul(&args));
            }
        }
    }
}
