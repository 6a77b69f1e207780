//! Biases and their gradient.

use crate::backend::Accumulate;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::Bias;
use crate::memory::Span;

/// Rows of a task.
const BLOCK: usize = 64;
/// Columns of a task that sums over rows.
const SUMMED: usize = 64;

impl Bias for Cpu {
    fn add_bias(&mut self, x: Span, bias: Span, width: usize) {
        let (isa, mut scratch, mut slices) = self.begin();
        let (bias, x) = (slices.read::<f32>(bias), slices.write::<f32>(x));
        assert!(bias.len() == width && x.len().is_multiple_of(width), "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(x.chunks_mut(BLOCK * width), |x, _| add_rows(isa, x, bias));
    }

    /// Each element is one chain of sums in the order of t: the same bits for any number of threads and for any parts
    /// of a batch.
    fn bias_grad(&mut self, dy: Span, grad: Span, width: usize, accumulate: Accumulate) {
        let (isa, mut scratch, mut slices) = self.begin();
        let (dy, grad) = (slices.read::<f32>(dy), slices.write::<f32>(grad));
        assert!(grad.len() == width && dy.len().is_multiple_of(width), "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        if accumulate == Accumulate::No {
            grad.fill(0.0);
        }
        areas.run(grad.chunks_mut(SUMMED).enumerate(), |(i, grad), _| sum_rows(isa, &dy[i * SUMMED..], width, grad));
    }
}

vectorized! {
    fn add_rows(x: &mut [f32], bias: &[f32]) {
        for x in x.chunks_exact_mut(bias.len()) {
            for (x, &bias) in x.iter_mut().zip(bias) {
                *x += bias;
            }
        }
    }
}

vectorized! {
    /// The first elements of the rows of `dy`, which start `width` apart.
    fn sum_rows(dy: &[f32], width: usize, sums: &mut [f32]) {
        for dy in dy.chunks(width) {
            for (sum, &dy) in sums.iter_mut().zip(dy) {
                *sum += dy;
            }
        }
    }
}
