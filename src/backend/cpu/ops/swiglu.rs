//! SwiGLU and its gradient, element by element.

use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::exp::sigmoid;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::SwiGlu;
use crate::memory::Span;

/// Elements of a task.
const BLOCK: usize = 1 << 13;

impl SwiGlu for Cpu {
    fn swiglu(&mut self, gate: Span, up: Span, out: Span) {
        let (isa, mut scratch, mut claims) = self.begin();
        let (gate, up, out) = (claims.read::<f32>(gate), claims.read::<f32>(up), claims.write::<f32>(out));
        assert!(gate.len() == out.len() && up.len() == out.len(), "equal lengths");
        let (_, mut areas) = scratch.split(Need::default());
        let tasks = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(out.chunks_mut(BLOCK));
        areas.run(tasks, |((gate, up), out), _| forward(isa, gate, up, out));
    }

    fn swiglu_grad(&mut self, gate: Span, up: Span, dout: Span) {
        let (isa, mut scratch, mut claims) = self.begin();
        let (gate, up, dout) = (claims.write::<f32>(gate), claims.write::<f32>(up), claims.read::<f32>(dout));
        assert!(gate.len() == dout.len() && up.len() == dout.len(), "equal lengths");
        let (_, mut areas) = scratch.split(Need::default());
        let tasks = gate.chunks_mut(BLOCK).zip(up.chunks_mut(BLOCK)).zip(dout.chunks(BLOCK));
        areas.run(tasks, |((gate, up), dout), _| backward(isa, gate, up, dout));
    }
}

vectorized! {
    fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * sigmoid::<FMA>(gate) * up;
        }
    }
}

vectorized! {
    fn backward(gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
        for ((gate, up), &dout) in gate.iter_mut().zip(up).zip(dout) {
            let (g, u) = (*gate, *up);
            let s = sigmoid::<FMA>(g);
            *gate = dout * u * s * (1.0 + g * (1.0 - s));
            *up = dout * g * s;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::cpu::Isa;
    use crate::backend::cpu::testing::Rig;
    use crate::backend::ops::reference::{self, wide};
    use crate::backend::testing::Random;

    #[test]
    fn values_and_gradients_from_flat_to_steep() {
        for (n, scale) in [(1, 1.0), (7, 0.01), (257, 5.0), (8192, 30.0), (20_001, 100.0)] {
            let (mut random, mut rig) = (Random(n as u64), Rig::default());
            let gate: Vec<f32> = random.floats(n).into_iter().map(|x| x * scale).collect();
            let (up, dout) = (random.floats(n), random.floats(n));
            let [gate_at, up_at, dout_at] = [&gate, &up, &dout].map(|data| rig.add(&data[..]));
            let out = rig.out(n);
            let (dgate, dup) = reference::swiglu_grad(&wide(&gate), &wide(&up), &wide(&dout));
            let expected = [(out, reference::swiglu(&wide(&gate), &wide(&up))), (gate_at, dgate), (up_at, dup)];
            // The exponential is good to 1.3 units in the last place; 1 - s loses what s has, times a gate of 100.
            rig.check(&expected, 1e-5, |cpu| {
                cpu.swiglu(gate_at, up_at, out);
                cpu.swiglu_grad(gate_at, up_at, dout_at);
            });
        }
    }

    #[test]
    fn nan_stays() {
        for isa in Isa::available() {
            for broken in 0..3 {
                let mut rig = Rig::default();
                let mut inputs = [[1.0f32; 40]; 3];
                inputs[broken][39] = f32::NAN;
                let [gate, up, dout] = inputs.map(|data| rig.add(&data));
                let out = rig.out(40);
                let found = rig.run(isa, 1, &[out, gate, up], |cpu| {
                    cpu.swiglu(gate, up, out);
                    cpu.swiglu_grad(gate, up, dout);
                });
                assert_eq!(found[0][39].is_nan(), broken < 2);
                assert!(found[1][39].is_nan() && found[2][39].is_nan() == (broken != 1));
                assert!(found.iter().all(|x| x[..39].iter().all(|x| x.is_finite())));
            }
        }
    }
}
