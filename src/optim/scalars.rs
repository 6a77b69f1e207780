//! The scalars that a rule keeps per tensor, and what they make of the gradient's statistics.

use super::{Rates, Step};
use crate::config::{Rule, Variant};

/// How many float32 a tensor's scalars take in the state.
pub const SCALARS: usize = 8;

/// Stable-SPAM's moving averages of one tensor; the other rules keep none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scalars {
    /// T: AdaClip's average of the largest magnitude.
    pub threshold: f32,
    /// mu: AdaGN's average of the norm.
    pub norm: f32,
    /// nu: AdaGN's average of the squared norm.
    pub norm_sq: f32,
}

impl Scalars {
    /// From the plane; the rest of it is reserved.
    pub fn load(plane: &[f32]) -> Self {
        Self { threshold: plane[0], norm: plane[1], norm_sq: plane[2] }
    }

    /// To the plane.
    pub fn save(&self, plane: &mut [f32]) {
        plane[..3].copy_from_slice(&[self.threshold, self.norm, self.norm_sq]);
    }
}

/// AdaClip: elements larger than `at` are scaled by `at / gmax`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// The threshold; infinite if nothing is clipped.
    pub at: f32,
    /// The gradient's largest magnitude.
    pub gmax: f32,
}

impl Clip {
    /// The gradient's element after AdaClip. Not a clamp: only the largest element lands on the threshold.
    #[inline(always)]
    pub fn apply(&self, g: f32) -> f32 {
        if g.abs() > self.at { g / self.gmax * self.at } else { g }
    }
}

impl Step {
    /// Takes the largest magnitude of the gradient into account and gives the clip that it leads to.
    pub fn clip(&self, scalars: &mut Scalars, gmax: f32) -> Clip {
        if self.rule != Rule::StableSpam {
            return Clip { at: f32::INFINITY, gmax };
        }
        let [_, _, gamma] = self.gammas;
        scalars.threshold = ema(scalars.threshold, gmax, gamma);
        Clip { at: scalars.threshold / self.gamma_corrections[2] as f32, gmax }
    }

    /// Takes the norm of the clipped gradient into account and gives all that the elements need.
    /// `decays`: whether weight decay applies to this tensor.
    pub fn rates(&self, scalars: &mut Scalars, clip: Clip, norm: f32, decays: bool) -> Rates {
        let decay = if decays { self.weight_decay } else { 0.0 };
        let decoupled = if self.rule == Rule::Adam { 0.0 } else { self.lr * decay };
        let spam = self.rule == Rule::Spam;
        // SPAM adds eps to the root of the uncorrected v, the others to that of the corrected one.
        let (per_lr, root) = match spam {
            true => (self.warmup * self.correction2.sqrt() / self.correction1, 1.0),
            false => (1.0 / self.correction1, 1.0 / self.correction2.sqrt()),
        };
        let mut rates = Rates {
            clip,
            norm: 1.0,
            l2: if self.rule == Rule::Adam { decay as f32 } else { 0.0 },
            spike: self.spike as f32,
            beta1: self.beta1 as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
            step: (self.lr * per_lr) as f32,
            root: root as f32,
            eps: self.eps as f32,
            // SPAM decays last: (w + d)(1 - c) = w + d (1 - c) - c w.
            keep: if spam { (1.0 - decoupled) as f32 } else { 1.0 },
            decay: decoupled as f32,
            feedback: self.feedback(per_lr),
            frozen: false,
        };
        if self.rule == Rule::StableSpam {
            self.normalize(scalars, norm, &mut rates);
        }
        rates
    }

    /// AdaGN: the gradient gets the norm that its history predicts.
    fn normalize(&self, scalars: &mut Scalars, norm: f32, rates: &mut Rates) {
        if norm == 0.0 && self.variant == Variant::Paper {
            // No direction to follow: weight decay and T were applied, the rest waits.
            rates.frozen = true;
            return;
        }
        scalars.norm = ema(scalars.norm, norm, self.gammas[0]);
        scalars.norm_sq = ema(scalars.norm_sq, norm * norm, self.gammas[1]);
        let mean = scalars.norm / self.gamma_corrections[0] as f32;
        let mean_sq = scalars.norm_sq / self.gamma_corrections[1] as f32;
        rates.norm = if norm > 0.0 { mean / (mean_sq.sqrt() + self.eps as f32) / norm } else { 0.0 };
    }

    /// What a fed-back error is multiplied by, without the factor of the second moment (storage.md's derivation:
    /// the next updates replay the error in full). `per_lr` is the step size per learning rate.
    fn feedback(&self, per_lr: f64) -> f32 {
        self.feedback_lr.map_or(0.0, |lr| ((1.0 - 1.0 / self.beta1) / (lr * per_lr)) as f32)
    }
}

fn ema(old: f32, new: f32, decay: f64) -> f32 {
    decay as f32 * old + (1.0 - decay) as f32 * new
}
