//! Activations in four bits with outliers (arXiv 2502.17055), simulated: they stay floats.

use super::Precision;
use super::conformance::{Case, MAX};
use super::reference::{round_but_two, wide};
use crate::backend::Backend;
use crate::memory::Span;

/// Elements of a group of [`ActivationQuant::quantize_activations`].
pub const QUANT_GROUP: usize = 256;

/// What the elements of a group become, its two largest magnitudes aside, which stay (of equal ones the first); `most` is
/// the largest magnitude of the others. Halves go to the even neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationCode {
    /// INT4 as in the published code: `c s / 7` with `s = max(most, 1e-6)` and `c = clamp(round(x k), -8, 7)`, where
    /// `k = 7 (1 / s)`.
    Int4,
    /// FP4 E1M2 as in the published code: `q round(x / q)` with `q = max(most, 1e-6) / 4`.
    Fp4,
    /// `s round(x / s)` with `s = most / 7`.
    Int4Rows,
}

impl ActivationCode {
    /// All.
    pub const ALL: [Self; 3] = [Self::Int4, Self::Fp4, Self::Int4Rows];

    /// Whether groups begin anew in each row.
    pub fn is_per_row(self) -> bool {
        self == Self::Int4Rows
    }
}

/// Rounding of activations in place.
pub trait ActivationQuant {
    /// Quantizes rows of `features` elements in place to four bits, in groups of [`QUANT_GROUP`]. Groups run on from a row
    /// to the next through the `sequence` rows of a sequence; of [`ActivationCode::Int4Rows`] they begin anew in each row.
    /// The last group of a sequence or row may be short. Where activations are bfloat16, every operation of the published
    /// codes rounds to bfloat16; [`ActivationCode::Int4Rows`] rounds the result alone.
    ///
    /// # Panics
    /// If the rows are no whole sequences.
    fn quantize_activations(&mut self, x: Span, features: usize, sequence: usize, code: ActivationCode);
}

/// What the operation computes, as values. In the precision of activations: which neighbour a quotient is rounded to is
/// part of the definition.
pub fn quantize_activations(
    x: &[f32],
    features: usize,
    sequence: usize,
    code: ActivationCode,
    precision: Precision,
) -> Vec<f32> {
    let r = |x: f32| precision.round(x);
    let one = |x: f32, most: f32| match code {
        ActivationCode::Int4 => {
            let scale = most.max(r(1e-6));
            let steps = r(x * r(r(1.0 / scale) * 7.0)).round_ties_even().clamp(-8.0, 7.0);
            // An integer has no negative zero.
            r(r((steps + 0.0) * scale) / 7.0)
        }
        ActivationCode::Fp4 => {
            let step = r(most.max(r(1e-6)) / 4.0);
            r(step * r(x / step).round_ties_even())
        }
        ActivationCode::Int4Rows if most / 7.0 == 0.0 => x,
        ActivationCode::Int4Rows => r(most / 7.0 * (x / (most / 7.0)).round_ties_even()),
    };
    let run = if code.is_per_row() { features } else { sequence * features };
    x.chunks(run).flat_map(|run| run.chunks(QUANT_GROUP)).flat_map(|group| round_but_two(group, one)).collect()
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (sequences, sequence, features) in [(1, 1, 1), (1, 3, 31), (2, 5, 257), (3, 20, 40)] {
        for code in ActivationCode::ALL {
            let mut case = Case::new(open, features as u64);
            let x = case.numbers(sequences * sequence * features);
            let (at, precision) = (case.activations(&x, features), case.precision());
            case.run(MAX, |backend| backend.quantize_activations(at, features, sequence, code));
            let expected = quantize_activations(&x, features, sequence, code, precision);
            case.near_rows(at, features, &wide(&expected), &format!("four-bit activations, {code:?}"));
        }
    }
}
