//! The formula of one element.

use super::{Clip, Constants};

/// All that the elements of one tensor need in one step: the step's constants and what the gradient's statistics add.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// AdaClip, or infinite.
    pub clip: Clip,
    /// AdaGN's factor, or 1.
    pub norm: f32,
    /// Only weight decay happens; m and v stay as they are.
    pub frozen: bool,
    /// Everything else.
    pub constants: Constants,
}

/// An element after the formula, before anything is rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moved {
    /// What is added to the weight.
    pub delta: f32,
    /// First moment.
    pub m: f32,
    /// Second moment.
    pub v: f32,
}

impl Rates {
    /// One element: gradient `g`, weight `w`, moments `m` and `v` as stored before the step.
    #[inline(always)]
    pub fn update(&self, g: f32, w: f32, m: f32, v: f32) -> Moved {
        let c = &self.constants;
        let g = self.clip.apply(g) * self.norm + c.l2 * w;
        let limit = c.spike * v;
        let g = if g * g > limit { limit.sqrt().copysign(g) } else { g };
        let m = c.beta1 * m + c.rest1 * g;
        let v = c.beta2 * v + c.rest2 * (g * g);
        let delta = c.keep * -(c.step * m / self.denominator(v)) - c.decay * w;
        Moved { delta, m, v }
    }

    /// The gradient's element as it enters the moments, where nothing but AdaClip and AdaGN change it.
    #[inline(always)]
    pub fn gradient(&self, g: f32) -> f32 {
        self.clip.apply(g) * self.norm
    }

    /// A mean of squared gradients taken into its moving average, which was `old` before the step.
    #[inline(always)]
    pub fn mean_of_squares(&self, old: f32, mean: f32) -> f32 {
        self.constants.beta2 * old + self.constants.rest2 * mean
    }

    /// One element whose second moment is shared: `v` is the one of this step, see [`Rates::mean_of_squares`].
    #[inline(always)]
    pub fn update_shared(&self, g: f32, w: f32, m: f32, v: f32) -> Moved {
        let c = &self.constants;
        let m = c.beta1 * m + c.rest1 * self.gradient(g);
        let delta = -(c.step * m / self.denominator(v)) - c.decay * w;
        Moved { delta, m, v }
    }

    /// The root of the corrected second moment, plus eps.
    #[inline(always)]
    pub fn denominator(&self, v: f32) -> f32 {
        v.sqrt() * self.constants.root + self.constants.eps
    }

    /// `m` with the rounding error `error` (unrounded minus stored weight) fed back; `v` after the update.
    #[inline(always)]
    pub fn feed_back(&self, m: f32, v: f32, error: f32) -> f32 {
        m + self.constants.feedback * self.denominator(v) * error
    }

    /// The whole step of a tensor that only decays.
    #[inline(always)]
    pub fn decay_only(&self, w: f32) -> f32 {
        -(self.constants.decay * w)
    }
}

#[cfg(test)]
mod tests {
    use crate::optim::{Clip, Optimizer, Rates, Rule, Scalars, Step};

    /// Late in a run, so that bias corrections are 1.
    fn rates(name: Rule, feedback: bool, lr: f64) -> Rates {
        let config = Optimizer { name, lr: 1e-3, reset_interval: 0, ..Optimizer::default() };
        let step = Step::new(&config, 100_000, lr, feedback, 1);
        step.constants(true).rates(&mut Scalars::default(), Clip { at: f32::INFINITY, gmax: 1.0 }, 1.0)
    }

    /// The derivation's claim: with no new gradient, later updates move the weight by what rounding left over.
    #[test]
    fn a_fed_back_error_is_replayed_in_full() {
        for name in [Rule::StableSpam, Rule::Spam, Rule::Adamw, Rule::Adam] {
            let rates = rates(name, true, 1e-3);
            for (error, v) in [(3e-4, 1e-4), (-2e-4, 4e-2)] {
                let mut m = rates.feed_back(0.0, v, error);
                let mut moved = 0.0;
                for _ in 0..300 {
                    let next = rates.update(0.0, 0.0, m, v);
                    (m, moved) = (next.m, moved + next.delta);
                }
                // v is held, but each update sees it decayed once: 0.05 % in its root.
                assert!((moved - error).abs() < 2e-3 * error.abs(), "{name:?}: {moved} of {error}");
            }
        }
    }

    #[test]
    fn feedback_is_off_unless_asked_for_and_divides_by_no_vanishing_rate() {
        assert_eq!(rates(Rule::StableSpam, false, 1e-3).constants.feedback, 0.0);
        let (low, floor) = (rates(Rule::StableSpam, true, 1e-9), rates(Rule::StableSpam, true, 1e-4));
        assert_eq!(
            low.constants.feedback, floor.constants.feedback,
            "a tenth of the peak is the least that is divided by"
        );
    }

    /// Steps 3, 6, 9 reset; feedback skips them, and k restarts.
    #[test]
    fn resets_come_when_the_interval_says() {
        let config = Optimizer { reset_interval: 3, ..Optimizer::default() };
        let resets: Vec<_> = (1..=9).filter(|&t| Step::new(&config, t, 1e-3, true, 1).reset_before).collect();
        assert_eq!(resets, [3, 6, 9]);
        for t in resets {
            let rates = |t| Step::new(&config, t, 1e-3, true, 1).constants(true);
            assert_eq!(rates(t).feedback, 0.0);
            assert!(rates(t + 1).feedback != 0.0);
            // The first step of an era is as large as the first of all.
            assert_eq!((rates(t).step, rates(t).root), (rates(1).step, rates(1).root));
        }
    }
}
