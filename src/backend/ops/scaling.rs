//! Multiplication and division of all elements by one number.

use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;
use half::bf16;
use serde::{Deserialize, Serialize};

/// What results are rounded to; they stay float32 in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32.
    #[default]
    F32,
    /// bfloat16, halves to even.
    Bf16,
}

impl Precision {
    /// The number of this precision that is nearest to `x`.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }
}

/// One factor for all elements of a span, for rules.
pub trait Scaling {
    /// `x = factor x`, rounded to `precision`; x is float32.
    fn scale(&mut self, x: Span, factor: f32, precision: Precision);

    /// `x = x / (||x|| + eps)`; x is float32, at most as long as the largest parameter. The norm is the root of the sum
    /// of squares, which has the order of [`super::Update::begin_update`]; norm, divisor and quotient are each rounded to
    /// `precision`.
    fn unit_norm(&mut self, x: Span, eps: f32, precision: Precision);
}

/// What [`Scaling::unit_norm`] leaves of `x`.
pub fn unit_norm(x: &[f64], eps: f32, precision: Precision) -> Vec<f64> {
    let round = |x: f64| f64::from(precision.round(x as f32));
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let divisor = round(round(norm) + f64::from(eps));
    x.iter().map(|x| round(x / divisor)).collect()
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (count, precision) in
        [(1, Precision::F32), (700, Precision::F32), (300, Precision::Bf16), (16_500, Precision::F32)]
    {
        let mut case = Case::new(open, count as u64);
        let x = case.numbers(count);
        let [scaled, divided] = [(); 2].map(|()| case.add(&x));
        case.run(MAX, |backend| {
            backend.scale(scaled, -0.7, precision);
            backend.unit_norm(divided, 0.5, precision);
        });
        let products: Vec<f64> = x.iter().map(|x| f64::from(precision.round(-0.7 * x))).collect();
        case.near_floats(scaled, &products, "numbers times a factor");
        case.near_floats(divided, &unit_norm(&wide(&x), 0.5, precision), "numbers divided by their norm");
    }
}
