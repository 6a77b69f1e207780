//! Softmax cross-entropy.

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
