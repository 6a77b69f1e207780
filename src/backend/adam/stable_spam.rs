//! The scalars that a rule keeps per tensor, and what they make of the gradient's statistics.

use super::{AdamArgs, AdamParams};

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

impl AdamArgs {
    /// Takes the largest magnitude of the gradient into account and gives the clip that it leads to.
    pub fn clip(&self, scalars: &mut Scalars, gmax: f32) -> Clip {
        if self.use_stable_spam == 0 {
            return Clip { at: f32::INFINITY, gmax };
        }
        scalars.threshold = self.average(2, scalars.threshold, gmax);
        Clip { at: scalars.threshold / self.gamma_corrections[2], gmax }
    }

    /// Takes the norm of the clipped gradient into account and gives all that the elements need.
    pub fn params(&self, scalars: &mut Scalars, clip: Clip, norm: f32) -> AdamParams {
        let frozen = self.freeze_on_zero_grad != 0 && clip.gmax == 0.0;
        let mut params = AdamParams { clip, norm: 1.0, frozen, args: *self };
        if self.use_stable_spam != 0 && !frozen {
            self.normalize(scalars, norm, &mut params);
        }
        params
    }

    /// AdaGN: the gradient gets the norm that its history predicts.
    fn normalize(&self, scalars: &mut Scalars, norm: f32, params: &mut AdamParams) {
        if norm == 0.0 && self.freeze_on_zero_grad != 0 {
            // Squares that float32 cannot hold show no direction either: weight decay and T were applied, the rest waits.
            params.frozen = true;
            return;
        }
        scalars.norm = self.average(0, scalars.norm, norm);
        scalars.norm_sq = self.average(1, scalars.norm_sq, norm * norm);
        let mean = scalars.norm / self.gamma_corrections[0];
        let mean_sq = scalars.norm_sq / self.gamma_corrections[1];
        params.norm = if norm > 0.0 { mean / (mean_sq.sqrt() + self.eps) / norm } else { 0.0 };
    }

    /// The moving average of decay `gamma`.
    fn average(&self, gamma: usize, old: f32, new: f32) -> f32 {
        self.gammas[gamma] * old + self.one_minus_gammas[gamma] * new
    }
}
