//! Activations in four bits with outliers (arXiv 2502.17055), simulated: they stay floats.

use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;

/// Rounding of activations in place.
pub trait ActivationQuant {
    /// Quantizes rows of `features` elements in place to four bits: per group of 256 the two largest magnitudes
    /// stay exact, the others are rounded to nearest on a grid of 15 values, `absmax / 7` apart. The last group of a row
    /// may be short.
    fn quantize_activations(&mut self, x: Span, features: usize);
}

/// What the operation computes, as values. In float32: which neighbour a quotient is rounded to is part of the
/// definition.
pub fn quantize_activations(x: &[f32], features: usize) -> Vec<f32> {
    let mut out = x.to_vec();
    for group in out.chunks_mut(features).flat_map(|row| row.chunks_mut(256)) {
        let mut order: Vec<usize> = (0..group.len()).collect();
        order.sort_by(|&a, &b| group[b].abs().total_cmp(&group[a].abs()));
        let others = order.split_off(2.min(group.len()));
        let scale = others.first().map_or(0.0, |&i| group[i].abs()) / 7.0;
        for i in others.into_iter().filter(|_| scale != 0.0) {
            group[i] = scale * (group[i] / scale).round_ties_even();
        }
    }
    out
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (tokens, features) in [(1, 1), (3, 31), (5, 257)] {
        let mut case = Case::new(open, features as u64);
        let x = case.numbers(tokens * features);
        let at = case.activations(&x, features);
        case.run(MAX, |backend| backend.quantize_activations(at, features));
        case.near_rows(at, features, &wide(&quantize_activations(&x, features)), "four-bit activations");
    }
}
