//! Softmax cross-entropy.

use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;

/// A target that counts neither in the loss nor in the gradient.
pub const IGNORE: u32 = u32::MAX;

/// The loss and its gradient.
pub trait CrossEntropy {
    /// `losses[t] = -log softmax(logits[t])[targets[t]]`, zero where the target is [`IGNORE`]; with
    /// `gradient = Some(scale)` the logits are replaced by their gradient times `scale`. `logits` is activations
    /// `[T, vocab]`, `targets` u32 `[T]`, `losses` float32 `[T]`, in nats. A target that is not below `vocab` panics, or
    /// on a device gives a loss of NaN.
    fn cross_entropy(&mut self, logits: Span, targets: Span, losses: Span, vocab: usize, gradient: Option<f32>);
}

/// The losses, and the gradient of their sum.
pub fn cross_entropy(logits: &[f64], targets: &[u32], vocab: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut losses, mut grad) = (vec![0.0; targets.len()], vec![0.0; logits.len()]);
    for (t, &target) in targets.iter().enumerate().filter(|(_, target)| **target != IGNORE) {
        let row = &logits[t * vocab..][..vocab];
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        losses[t] = lse - row[target as usize];
        (0..vocab).for_each(|i| grad[t * vocab + i] = (row[i] - lse).exp() - f64::from(i == target as usize));
    }
    (losses, grad)
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (tokens, vocab) in [(1, 1), (6, 40), (17, 257)] {
        let mut case = Case::new(open, vocab as u64);
        let (logits, mut targets) = (case.numbers(tokens * vocab), case.indices(tokens, vocab as u32));
        targets[tokens / 2] = IGNORE;
        let [read, replaced] = [(); 2].map(|()| case.activations(&logits, vocab));
        let (targets_at, first, second) = (case.add(&targets), case.room(tokens), case.room(tokens));
        case.run(MAX, |backend| {
            backend.cross_entropy(read, targets_at, first, vocab, None);
            backend.cross_entropy(replaced, targets_at, second, vocab, Some(0.5));
        });
        let (losses, grad) = cross_entropy(&wide(&logits), &targets, vocab);
        case.near_floats(first, &losses, "losses");
        case.near_floats(second, &losses, "losses with their gradient");
        case.near_rows(read, vocab, &wide(&logits), "logits that are only read");
        case.near_rows(replaced, vocab, &grad.iter().map(|x| 0.5 * x).collect::<Vec<_>>(), "the gradient of logits");
    }
}
