//! What the elements of a tensor need in a step and no gradient decides, as plain numbers: one source for every
//! backend, whether it reads them as fields or as a kernel's argument.

use super::{Rule, Step, Variant};
use zerocopy::{Immutable, IntoBytes};

/// All constants of one step for one kind of tensor. Rules differ only in these numbers: a part that a rule lacks has
/// the value that makes it vanish, so the formula has no branches on the rule. Laid out for a kernel's argument
/// (`backend/cuda/kernels/adam.h` declares the same fields in the same order).
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Constants {
    /// Seed of the run.
    pub seed: u64,
    /// Step, for the random numbers.
    pub number: u32,
    /// Resets so far, for SPAM's mask.
    pub mask_round: u32,
    /// SPAM's share of updated elements, else 1.
    pub density: f32,
    /// Whether the gradient is clipped and normalized by Stable-SPAM (0 or 1).
    pub stable: u32,
    /// Whether an all-zero gradient leaves everything but weight decay and T for later (0 or 1).
    pub freezes: u32,
    /// Whether moments are zero before they are used (0 or 1).
    pub reset_before: u32,
    /// Whether moments are used, then zeroed (0 or 1).
    pub reset_after: u32,
    /// Decays of Stable-SPAM's averages: norm, squared norm, largest magnitude.
    pub gammas: [f32; 3],
    /// `1 - gamma`.
    pub rests: [f32; 3],
    /// `1 - gamma^t`.
    pub gamma_corrections: [f32; 3],
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
}

impl Step {
    /// The constants of tensors to which weight decay applies, or of those to which it does not. Computed in float64.
    pub fn constants(&self, decays: bool) -> Constants {
        let decay = if decays { self.weight_decay } else { 0.0 };
        let decoupled = if self.rule == Rule::Adam { 0.0 } else { self.lr * decay };
        let spam = self.rule == Rule::Spam;
        // SPAM adds eps to the root of the uncorrected v, the others to that of the corrected one.
        let (per_lr, root) = match spam {
            true => (self.warmup * self.correction2.sqrt() / self.correction1, 1.0),
            false => (1.0 / self.correction1, 1.0 / self.correction2.sqrt()),
        };
        Constants {
            seed: self.seed,
            number: self.number as u32,
            mask_round: self.mask_round,
            density: self.density,
            stable: u32::from(self.rule == Rule::StableSpam),
            freezes: u32::from(self.variant == Variant::Paper),
            reset_before: u32::from(self.reset_before),
            reset_after: u32::from(self.reset_after),
            gammas: self.gammas.map(|gamma| gamma as f32),
            rests: self.gammas.map(|gamma| (1.0 - gamma) as f32),
            gamma_corrections: self.gamma_corrections.map(|correction| correction as f32),
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
        }
    }

    /// What a fed-back error is multiplied by, without the factor of the second moment (storage.md's derivation:
    /// the next updates replay the error in full). `per_lr` is the step size per learning rate.
    fn feedback(&self, per_lr: f64) -> f32 {
        self.feedback_lr.map_or(0.0, |lr| ((1.0 - 1.0 / self.beta1) / (lr * per_lr)) as f32)
    }
}
