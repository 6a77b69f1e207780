//! Four-bit activations with two outliers kept per group (arXiv 2502.17055).

use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::reduce;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::ActivationQuant;
use crate::memory::Span;

/// Elements of a group.
const GROUP: usize = 256;
/// Elements of a task, about.
const BLOCK: usize = 1 << 13;

impl ActivationQuant for Cpu {
    fn quantize_activations(&mut self, x: Span, features: usize) {
        let (isa, mut scratch, mut slices) = self.begin();
        let x = slices.write::<f32>(x);
        assert!(x.len().is_multiple_of(features), "whole rows");
        let block = (BLOCK / features).max(1) * features;
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(x.chunks_mut(block), |rows, _| {
            for row in rows.chunks_exact_mut(features) {
                row.chunks_mut(GROUP).for_each(|group| quantize_group(isa, group));
            }
        });
    }
}

vectorized! {
    /// The two largest magnitudes stay (of equal ones, the first); the others become `s round(x / s)` with
    /// `s = absmax / 7` of these others, halves to the even neighbour. NaN stays NaN and counts in no maximum.
    fn quantize_group(x: &mut [f32]) {
        let first = largest(x);
        let first_value = std::mem::replace(&mut x[first], 0.0);
        let second = largest(x);
        let second_value = std::mem::replace(&mut x[second], 0.0);
        let scale = x[largest(x)].abs() / 7.0;
        // A scale of zero (or too small for a float32) means that nothing but the two is there to be rounded.
        if scale != 0.0 {
            x.iter_mut().for_each(|x| *x = scale * (*x / scale).round_ties_even());
        }
        // In this order: a group of one element has only a first.
        x[second] = second_value;
        x[first] = first_value;
    }
}

/// Index of the first element of the greatest magnitude; 0 if there is none but NaN.
#[inline(always)]
fn largest(x: &[f32]) -> usize {
    let max = reduce::max_magnitude(x);
    x.iter().position(|x| x.abs() == max).unwrap_or(0)
}
