//! The formula of one element.

use super::Clip;

/// All that the elements of one tensor need in one step. Rules differ only in these numbers: a part that a rule
/// lacks has the value that makes it vanish, so the formula has no branches on the rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// AdaClip, or infinite.
    pub clip: Clip,
    /// AdaGN's factor, or 1.
    pub norm: f32,
    /// Adam's weight decay in the gradient, or 0.
    pub l2: f32,
    /// SPAM's spike threshold, or infinite.
    pub spike: f32,
    /// Decay of m.
    pub beta1: f32,
    /// `1 - beta1`.
    pub rest1: f32,
    /// Decay of v.
    pub beta2: f32,
    /// `1 - beta2`.
    pub rest2: f32,
    /// Step size with the bias correction of m.
    pub step: f32,
    /// Inverse root of the bias correction of v.
    pub root: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// What is left of the update after SPAM's final decay, else 1.
    pub keep: f32,
    /// Share of the weight that decays.
    pub decay: f32,
    /// What a fed-back error is multiplied by, or 0.
    pub feedback: f32,
    /// Only weight decay happens; m and v stay as they are.
    pub frozen: bool,
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
        let g = self.clip.apply(g) * self.norm + self.l2 * w;
        let limit = self.spike * v;
        let g = if g * g > limit { limit.sqrt().copysign(g) } else { g };
        let m = self.beta1 * m + self.rest1 * g;
        let v = self.beta2 * v + self.rest2 * (g * g);
        let delta = self.keep * -(self.step * m / self.denominator(v)) - self.decay * w;
        Moved { delta, m, v }
    }

    /// The root of the corrected second moment, plus eps.
    #[inline(always)]
    pub fn denominator(&self, v: f32) -> f32 {
        v.sqrt() * self.root + self.eps
    }

    /// `m` with the rounding error `error` (unrounded minus stored weight) fed back; `v` after the update.
    #[inline(always)]
    pub fn feed_back(&self, m: f32, v: f32, error: f32) -> f32 {
        m + self.feedback * self.denominator(v) * error
    }

    /// The whole step of a tensor that only decays.
    #[inline(always)]
    pub fn decay_only(&self, w: f32) -> f32 {
        -(self.decay * w)
    }
}
