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
        let (isa, mut scratch, mut slices) = self.begin();
        let (gate, up, out) = (slices.read::<f32>(gate), slices.read::<f32>(up), slices.write::<f32>(out));
        assert!(gate.len() == out.len() && up.len() == out.len(), "equal lengths");
        let (_, mut areas) = scratch.split(Need::default());
        let tasks = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(out.chunks_mut(BLOCK));
        areas.run(tasks, |((gate, up), out), _| forward(isa, gate, up, out));
    }

    fn swiglu_grad(&mut self, gate: Span, up: Span, dout: Span) {
        let (isa, mut scratch, mut slices) = self.begin();
        let (gate, up, dout) = (slices.write::<f32>(gate), slices.write::<f32>(up), slices.read::<f32>(dout));
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
