//! Normally distributed numbers.

use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;
use crate::quant::{RngKey, RngUse};

/// Random matrices.
pub trait Gaussian {
    /// `out[i]`: `deviation` times number `i` of [`RngKey::gaussian`], the same bits on every backend; `out` is float32.
    fn gaussian(&mut self, out: Span, key: &RngKey, deviation: f32);
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for count in [1, 7, 3000, 20_001] {
        let mut case = Case::new(open, count as u64);
        let out = case.room(count);
        let key = RngKey { seed: 1 << 40 | 9, step: 3, tensor: count as u32, usage: RngUse::Projection };
        case.run(MAX, |backend| backend.gaussian(out, &key, 0.5));
        let mut wanted = vec![0.0; count];
        key.gaussian(0, &mut wanted);
        wanted.iter_mut().for_each(|x| *x *= 0.5);
        case.near_floats(out, &wide(&wanted), "normally distributed numbers");
        case.same_floats(out, &wanted, "normally distributed numbers");
    }
}
