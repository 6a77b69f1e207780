//! Softmax cross-entropy, row by row, with the gradient in place of the logits.

use crate::backend::IGNORE;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::exp::exp;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::reduce;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::CrossEntropy;
use crate::memory::Span;

/// Rows of a task.
const BLOCK: usize = 16;

impl CrossEntropy for Cpu {
    fn cross_entropy(&mut self, logits: Span, targets: Span, losses: Span, vocab: usize, gradient: Option<f32>) {
        let (isa, mut scratch, mut slices) = self.begin();
        let (logits, targets) = (slices.write::<f32>(logits), slices.read::<u32>(targets));
        let losses = slices.write::<f32>(losses);
        assert!(logits.len() == targets.len() * vocab && losses.len() == targets.len(), "a row for each target");
        let (_, mut areas) = scratch.split(Need::default());
        let tasks = logits.chunks_mut(BLOCK * vocab).zip(targets.chunks(BLOCK)).zip(losses.chunks_mut(BLOCK));
        areas.run(tasks, |((logits, targets), losses), _| {
            for ((logits, &target), loss) in logits.chunks_exact_mut(vocab).zip(targets).zip(losses) {
                assert!(target == IGNORE || (target as usize) < vocab, "target {target} of a vocabulary of {vocab}");
                *loss = row(isa, logits, target, gradient);
            }
        });
    }
}

vectorized! {
    fn row(logits: &mut [f32], target: u32, gradient: Option<f32>) -> f32 {
        if target == IGNORE {
            if gradient.is_some() {
                logits.fill(0.0);
            }
            return 0.0;
        }
        let target = target as usize;
        let max = reduce::max(logits);
        let sum = reduce::sum_of(logits, logits, |x, _, sum| sum + exp::<FMA>(x - max));
        let loss = max - logits[target] + sum.ln();
        if let Some(gradient) = gradient {
            let scale = gradient / sum;
            logits.iter_mut().for_each(|x| *x = exp::<FMA>(*x - max) * scale);
            logits[target] -= gradient;
        }
        loss
    }
}
