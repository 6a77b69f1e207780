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
        let (isa, mut scratch, mut claims) = self.begin();
        let (logits, targets) = (claims.write::<f32>(logits), claims.read::<u32>(targets));
        let losses = claims.write::<f32>(losses);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Isa;
    use crate::backend::cpu::testing::Rig;
    use crate::backend::ops::reference::{self, wide};
    use crate::backend::testing::Random;

    #[test]
    fn losses_and_gradients_with_ignored_targets() {
        for (count, vocab, scale) in [(1, 1, 1.0), (17, 7, 30.0), (33, 257, 1.0), (3, 5461, 100.0), (64, 256, 5.0)] {
            let (mut random, mut rig) = (Random(vocab as u64), Rig::default());
            let logits: Vec<f32> = random.floats(count * vocab).into_iter().map(|x| x * scale).collect();
            let target = |t: usize, r: &mut Random| if t % 5 == 3 { IGNORE } else { r.below(vocab) as u32 };
            let targets: Vec<u32> = (0..count).map(|t| target(t, &mut random)).collect();
            let [kept, replaced] = [(); 2].map(|()| rig.add(&logits[..]));
            let (targets_at, first, second) = (rig.add(&targets[..]), rig.out(count), rig.out(count));
            let (losses, grad) = reference::cross_entropy(&wide(&logits), &targets, vocab);
            let grad = grad.into_iter().map(|x| x * 0.25).collect();
            let expected = [(kept, wide(&logits)), (replaced, grad), (first, losses.clone()), (second, losses)];
            // Logits of 100 have an error of 4e-6 in float32, which the loss inherits.
            rig.check(&expected, 1e-5, |cpu| {
                cpu.cross_entropy(kept, targets_at, first, vocab, None);
                cpu.cross_entropy(replaced, targets_at, second, vocab, Some(0.25));
            });
        }
    }

    #[test]
    fn nan_reaches_the_loss_of_its_row_unless_ignored() {
        let mut rig = Rig::default();
        let mut logits = [0.5f32; 4 * 40];
        (logits[3], logits[40 + 39], logits[80]) = (f32::NAN, f32::INFINITY, f32::NAN);
        let (logits, targets, losses) = (rig.add(&logits), rig.add(&[0u32, 1, IGNORE, 2]), rig.out(4));
        for isa in Isa::available() {
            let found =
                rig.run(isa, 1, &[logits, losses], |cpu| cpu.cross_entropy(logits, targets, losses, 40, Some(1.0)));
            assert_eq!([0, 1, 2, 3].map(|t| found[1][t].is_finite()), [false, false, true, true]);
            assert!(found[0][..40].iter().all(|x| x.is_nan()) && found[0][80..120] == [0.0; 40]);
        }
    }
}
