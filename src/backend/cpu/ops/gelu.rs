//! GELU and its gradient, element by element. Their inputs are narrow, so the error function is computed in float64.

use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::{Gelu, gelu, gelu_slope};
use crate::memory::Span;

/// Elements of a task.
const BLOCK: usize = 1 << 10;

impl Gelu for Cpu {
    fn gelu(&mut self, x: Span, out: Span) {
        let (_, mut scratch, mut slices) = self.begin();
        let (x, out) = (slices.read::<f32>(x), slices.write::<f32>(out));
        assert_eq!(x.len(), out.len(), "equal lengths");
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)), |(x, out), _| {
            x.iter().zip(out).for_each(|(&x, out)| *out = gelu(x.into()) as f32);
        });
    }

    fn gelu_grad(&mut self, x: Span, dout: Span) {
        let (_, mut scratch, mut slices) = self.begin();
        let (x, dout) = (slices.read::<f32>(x), slices.write::<f32>(dout));
        assert_eq!(x.len(), dout.len(), "equal lengths");
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(x.chunks(BLOCK).zip(dout.chunks_mut(BLOCK)), |(x, dout), _| {
            x.iter().zip(dout).for_each(|(&x, dout)| *dout *= gelu_slope(x.into()) as f32);
        });
    }
}
