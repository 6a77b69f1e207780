//! Cross-entropy and its gradient.

use crate::harness::operands::{Harness, Random};
use tetrad::backend::IGNORE;
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference::{self, wide};

#[test]
fn losses_and_gradients_with_ignored_targets() {
    for (count, vocab, scale) in [(1, 1, 1.0), (17, 7, 30.0), (33, 257, 1.0), (3, 5461, 100.0), (64, 256, 5.0)] {
        let (mut random, mut harness) = (Random(vocab as u64), Harness::default());
        let logits: Vec<f32> = random.floats(count * vocab).into_iter().map(|x| x * scale).collect();
        let target = |t: usize, r: &mut Random| if t % 5 == 3 { IGNORE } else { r.below(vocab) as u32 };
        let targets: Vec<u32> = (0..count).map(|t| target(t, &mut random)).collect();
        let [kept, replaced] = [(); 2].map(|()| harness.add(&logits[..]));
        let (targets_at, first, second) = (harness.add(&targets[..]), harness.out(count), harness.out(count));
        let (losses, grad) = reference::cross_entropy(&wide(&logits), &targets, vocab);
        let grad = grad.into_iter().map(|x| x * 0.25).collect();
        let expected = [(kept, wide(&logits)), (replaced, grad), (first, losses.clone()), (second, losses)];
        // Logits of 100 have an error of 4e-6 in float32, which the loss inherits.
        harness.check(&expected, 1e-5, |cpu| {
            cpu.cross_entropy(kept, targets_at, first, vocab, None);
            cpu.cross_entropy(replaced, targets_at, second, vocab, Some(0.25));
        });
    }
}

#[test]
fn nan_reaches_the_loss_of_its_row_unless_ignored() {
    let mut harness = Harness::default();
    let mut logits = [0.5f32; 4 * 40];
    (logits[3], logits[40 + 39], logits[80]) = (f32::NAN, f32::INFINITY, f32::NAN);
    let (logits, targets, losses) = (harness.add(&logits), harness.add(&[0u32, 1, IGNORE, 2]), harness.out(4));
    for isa in Isa::available() {
        let found =
            harness.run(isa, 1, &[logits, losses], |cpu| cpu.cross_entropy(logits, targets, losses, 40, Some(1.0)));
        assert_eq!([0, 1, 2, 3].map(|t| found[1][t].is_finite()), [false, false, true, true]);
        assert!(found[0][..40].iter().all(|x| x.is_nan()) && found[0][80..120] == [0.0; 40]);
    }
}
