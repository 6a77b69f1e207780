//! Activations times a number, with elements left out, and summed in groups.

use super::scaling::scale;
use crate::backend::Accumulate;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::{ActivationScaling, DropoutArgs, Precision};
use crate::memory::Span;
use crate::quant::BLOCK;

/// Elements of a task, about.
const TASK: usize = 1 << 13;

impl ActivationScaling for Cpu {
    fn scale_rows(&mut self, x: Span, width: usize, factor: f32, learned: Option<Span>) {
        let (isa, mut scratch, mut slices) = self.begin();
        let factor = learned.map_or(factor, |learned| factor * slices.read::<f32>(learned)[0]);
        let x = slices.write::<f32>(x);
        assert!(x.len().is_multiple_of(width), "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(x.chunks_mut(TASK), |x, _| scale(isa, x, factor, Precision::F32));
    }

    /// One chain of rows, each a chain of its own: the same bits for any number of threads and for any parts of a batch.
    /// There are few elements.
    fn scale_grad(&mut self, x: Span, dy: Span, width: usize, factor: f32, grad: Span, accumulate: Accumulate) {
        let (_, _, mut slices) = self.begin();
        let (x, dy, grad) = (slices.read::<f32>(x), slices.read::<f32>(dy), slices.write::<f32>(grad));
        assert!(x.len() == dy.len() && x.len().is_multiple_of(width) && grad.len() == 1, "whole rows, one number");
        let mut sum = if accumulate == Accumulate::Yes { grad[0] } else { 0.0 };
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
            sum += factor * x.iter().zip(dy).fold(0.0, |sum, (x, dy)| sum + x * dy);
        }
        grad[0] = sum;
    }

    fn dropout(&mut self, x: Span, out: Span, width: usize, args: &DropoutArgs, accumulate: Accumulate) {
        let (isa, mut scratch, mut slices) = self.begin();
        let (x, out) = (slices.read::<f32>(x), slices.write::<f32>(out));
        assert!(x.len() == out.len() && x.len().is_multiple_of(width), "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        let rows = (TASK / width).max(1);
        let tasks = x.chunks(rows * width).zip(out.chunks_mut(rows * width)).enumerate();
        areas.run(tasks, |(i, (x, out)), _| {
            for (row, (x, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
                drop_row(isa, x, out, args.element(i * rows + row, width), args, accumulate == Accumulate::Yes);
            }
        });
    }

    fn sum_groups(&mut self, x: Span, out: Span, width: usize, group: usize) {
        let (_, mut scratch, mut slices) = self.begin();
        let (x, out) = (slices.read::<f32>(x), slices.write::<f32>(out));
        let groups = width.div_ceil(group);
        assert!(x.len().is_multiple_of(width) && out.len() == x.len() / width * groups, "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        let rows = (TASK / width).max(1);
        areas.run(x.chunks(rows * width).zip(out.chunks_mut(rows * groups)), |(x, out), _| {
            for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(groups)) {
                x.chunks(group).zip(out).for_each(|(x, out)| *out = x.iter().fold(0.0, |sum, x| sum + x));
            }
        });
    }

    fn sum_groups_grad(&mut self, dout: Span, dx: Span, width: usize, group: usize, accumulate: Accumulate) {
        let (_, mut scratch, mut slices) = self.begin();
        let (dout, dx) = (slices.read::<f32>(dout), slices.write::<f32>(dx));
        let groups = width.div_ceil(group);
        assert!(dx.len().is_multiple_of(width) && dout.len() == dx.len() / width * groups, "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        let rows = (TASK / width).max(1);
        areas.run(dout.chunks(rows * groups).zip(dx.chunks_mut(rows * width)), |(dout, dx), _| {
            for (dout, dx) in dout.chunks_exact(groups).zip(dx.chunks_exact_mut(width)) {
                for (dout, dx) in dout.iter().zip(dx.chunks_mut(group)) {
                    match accumulate {
                        Accumulate::No => dx.fill(*dout),
                        Accumulate::Yes => dx.iter_mut().for_each(|dx| *dx += dout),
                    }
                }
            }
        });
    }
}

vectorized! {
    fn drop_row(x: &[f32], out: &mut [f32], element: u64, args: &DropoutArgs, add: bool) {
        let factor = args.factor();
        for (i, (x, out)) in x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).enumerate() {
            let mut u = [0.0; BLOCK];
            args.key.uniform(element + (i * BLOCK) as u64, &mut u);
            for ((x, out), u) in x.iter().zip(out).zip(u) {
                let kept = if u >= args.probability { x * factor } else { 0.0 };
                *out = if add { *out + kept } else { kept };
            }
        }
    }
}
