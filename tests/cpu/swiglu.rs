//! SwiGLU and its gradient.

use crate::harness::operands::{Harness, Random};
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference::{self, wide};

#[test]
fn values_and_gradients_from_flat_to_steep() {
    for (n, scale) in [(1, 1.0), (7, 0.01), (257, 5.0), (8192, 30.0), (20_001, 100.0)] {
        let (mut random, mut harness) = (Random(n as u64), Harness::default());
        let gate: Vec<f32> = random.floats(n).into_iter().map(|x| x * scale).collect();
        let (up, dout) = (random.floats(n), random.floats(n));
        let [gate_at, up_at, dout_at] = [&gate, &up, &dout].map(|data| harness.add(&data[..]));
        let out = harness.out(n);
        let (dgate, dup) = reference::swiglu_grad(&wide(&gate), &wide(&up), &wide(&dout));
        let expected = [(out, reference::swiglu(&wide(&gate), &wide(&up))), (gate_at, dgate), (up_at, dup)];
        // The exponential is good to 1.3 units in the last place; 1 - s loses what s has, times a gate of 100.
        harness.check(&expected, 1e-5, |cpu| {
            cpu.swiglu(gate_at, up_at, out);
            cpu.swiglu_grad(gate_at, up_at, dout_at);
        });
    }
}

#[test]
fn nan_stays() {
    for isa in Isa::available() {
        for broken in 0..3 {
            let mut harness = Harness::default();
            let mut inputs = [[1.0f32; 40]; 3];
            inputs[broken][39] = f32::NAN;
            let [gate, up, dout] = inputs.map(|data| harness.add(&data));
            let out = harness.out(40);
            let found = harness.run(isa, 1, &[out, gate, up], |cpu| {
                cpu.swiglu(gate, up, out);
                cpu.swiglu_grad(gate, up, dout);
            });
            assert_eq!(found[0][39].is_nan(), broken < 2);
            assert!(found[1][39].is_nan() && found[2][39].is_nan() == (broken != 1));
            assert!(found.iter().all(|x| x[..39].iter().all(|x| x.is_finite())));
        }
    }
}
