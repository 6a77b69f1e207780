//! O-LoRA (arXiv 2310.14152): the rows of an adapter that earlier tasks learned stay as they are, and those that are learned
//! are pushed to be orthogonal to them: `weight sum |A_old A_new^T|` is added to the loss for every adapted matrix.
//!
//! The pairs of all tasks are one pair of a higher rank, in which those of earlier tasks come first. What the penalty adds to
//! the gradient is computed on the host: its matrices are small.

use crate::backend::{Backend, Param};
use crate::config::Orthogonal;
use crate::memory::Span;
use crate::model::{AdapterPart, Model, ParamKind, ParamSpec};
use zerocopy::IntoBytes;

/// What is done to the gradients of such an adapter.
pub(super) struct OrthogonalRows {
    args: Orthogonal,
    /// A whole A, and the gradient of its new rows.
    a: Vec<f32>,
    grad: Vec<f32>,
}

impl OrthogonalRows {
    /// With room for every tensor of the model's adapter.
    pub fn new(args: Orthogonal, model: &Model) -> Self {
        let adapters = model.specs.iter().filter(|spec| spec.kind.is_adapter());
        let room = vec![0.0; adapters.map(|spec| spec.shape.len()).max().unwrap_or(0)];
        Self { args, a: room.clone(), grad: room }
    }

    /// Leaves the gradient of earlier rows out, and adds the penalty's to that of the others.
    pub fn apply(&mut self, backend: &mut dyn Backend, spec: &ParamSpec, param: &Param, grad: Span) {
        let ParamKind::Adapter(kind) = spec.kind else { return };
        let (cols, earlier) = (spec.shape.cols, self.args.rows as usize);
        let frozen = earlier * cols;
        backend.zero(grad.head(4 * frozen));
        if kind.part != AdapterPart::A {
            return;
        }
        let rest = grad.part(4 * frozen, 4 * (spec.shape.len() - frozen));
        let (a, new) = (&mut self.a[..spec.shape.len()], &mut self.grad[..spec.shape.len() - frozen]);
        backend.download(param.weight.data, a.as_mut_bytes());
        backend.download(rest, new.as_mut_bytes());
        let (old, learned) = a.split_at(frozen);
        add_penalty(old, learned, new, cols, self.args.weight as f32);
        backend.upload(new.as_bytes(), rest);
    }
}

/// Adds the gradient of `weight sum |old learned^T|` by `learned`; all are rows of `cols` numbers.
fn add_penalty(old: &[f32], learned: &[f32], grad: &mut [f32], cols: usize, weight: f32) {
    for (learned, grad) in learned.chunks_exact(cols).zip(grad.chunks_exact_mut(cols)) {
        for old in old.chunks_exact(cols) {
            let product: f32 = old.iter().zip(learned).map(|(x, y)| x * y).sum();
            // Of 0 the slope is 0, as PyTorch has it.
            let slope = if product == 0.0 { 0.0 } else { weight.copysign(product) };
            grad.iter_mut().zip(old).for_each(|(grad, old)| *grad += slope * old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_penalty_is_the_slope_of_the_sum_of_magnitudes() {
        let cols = 5;
        let number = |i: usize| ((i * 37 + 11) % 17) as f32 / 8.0 - 1.0;
        let (old, learned): (Vec<f32>, Vec<f32>) = ((0..15).map(number).collect(), (20..30).map(number).collect());
        let penalty = |learned: &[f32]| -> f64 {
            let of = |new: &[f32]| -> f64 {
                old.chunks(cols).map(|old| old.iter().zip(new).map(|(x, y)| f64::from(x * y)).sum::<f64>().abs()).sum()
            };
            learned.chunks(cols).map(of).sum()
        };
        let mut grad = vec![1.0; 10];
        add_penalty(&old, &learned, &mut grad, cols, 0.5);
        for i in 0..10 {
            let moved = |by: f32| {
                let mut learned = learned.clone();
                learned[i] += by;
                penalty(&learned)
            };
            let slope = 0.5 * (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((f64::from(grad[i]) - 1.0 - slope).abs() < 1e-4, "{i}: {} and {slope}", grad[i]);
        }
    }
}
