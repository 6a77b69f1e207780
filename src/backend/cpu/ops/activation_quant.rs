//! Four-bit activations with two outliers kept per group (arXiv 2502.17055).

use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::{ActivationCode, ActivationQuant, QUANT_GROUP};
use crate::memory::Span;
use crate::quant::{absmax, without_the_largest};

/// Elements of a task, about; whole groups.
const BLOCK: usize = 1 << 13;

impl ActivationQuant for Cpu {
    fn quantize_activations(&mut self, x: Span, features: usize, sequence: usize, code: ActivationCode) {
        let (isa, mut scratch, mut slices) = self.begin();
        let x = slices.write::<f32>(x);
        assert!(x.len().is_multiple_of(features * sequence), "whole sequences");
        // Groups begin anew after this many elements: a task has several such runs, or a part of a long one.
        let run = if code.is_per_row() { features } else { features * sequence };
        let (runs, task) = if run < BLOCK { (BLOCK / run * run, BLOCK / run * run) } else { (run, BLOCK) };
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(x.chunks_mut(runs).flat_map(|runs| runs.chunks_mut(task)), |task, _| {
            let groups = task.chunks_mut(run).flat_map(|run| run.chunks_mut(QUANT_GROUP));
            groups.for_each(|group| quantize_group(isa, group, code));
        });
    }
}

vectorized! {
    /// A group. NaN stays NaN and counts in no maximum.
    fn quantize_group(x: &mut [f32], code: ActivationCode) {
        without_the_largest(x, |x| {
            let most = absmax(x);
            match code {
                ActivationCode::Int4 => {
                    let scale = most.max(1e-6);
                    let steps = 1.0 / scale * 7.0;
                    // Adding zero makes what is rounded to it positive, as an integer is.
                    x.iter_mut().for_each(|x| {
                        *x = ((*x * steps).round_ties_even().clamp(-8.0, 7.0) + 0.0) * scale / 7.0;
                    });
                }
                ActivationCode::Fp4 => {
                    let step = most.max(1e-6) / 4.0;
                    x.iter_mut().for_each(|x| *x = step * (*x / step).round_ties_even());
                }
                ActivationCode::Int4Rows => {
                    let scale = most / 7.0;
                    // A scale of zero (or too small for a float32) means that nothing but the two is there to be rounded.
                    if scale != 0.0 {
                        x.iter_mut().for_each(|x| *x = scale * (*x / scale).round_ties_even());
                    }
                }
            }
        });
    }
}
