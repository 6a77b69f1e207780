//! What the elements of a tensor need in a step and no gradient decides, as plain numbers: one source for every
//! backend, whether it reads them as fields or as a kernel's argument.

use zerocopy::{FromZeros, Immutable, IntoBytes};

/// The constants of one step of Adam, AdamW, SPAM or Stable-SPAM for one kind of tensor. The rules differ only in
/// these numbers: a part that a rule lacks has the value that makes it vanish, so the formula has no branches on the
/// rule. Laid out for a kernel's argument (`backend/cuda/kernels/adam.h` declares the same fields in the same
/// order).
#[derive(Clone, Copy, Debug, PartialEq, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct AdamArgs {
    /// Seed of the run.
    pub seed: u64,
    /// Step, for the random numbers.
    pub number: u32,
    /// Resets so far, for SPAM's mask.
    pub mask_round: u32,
    /// SPAM's share of updated elements, else 1.
    pub density: f32,
    /// Whether the gradient is clipped and normalized by Stable-SPAM (0 or 1).
    pub use_stable_spam: u32,
    /// Whether an all-zero gradient leaves everything but weight decay and T for later (0 or 1).
    pub freeze_on_zero_grad: u32,
    /// Whether moments are zero before they are used (0 or 1).
    pub reset_before: u32,
    /// Whether moments are used, then zeroed (0 or 1).
    pub reset_after: u32,
    /// Decays of Stable-SPAM's averages: norm, squared norm, largest magnitude.
    pub gammas: [f32; 3],
    /// `1 - gamma`.
    pub one_minus_gammas: [f32; 3],
    /// `1 - gamma^t`.
    pub gamma_corrections: [f32; 3],
    /// Adam's weight decay in the gradient, or 0.
    pub l2: f32,
    /// SPAM's spike threshold, or infinite.
    pub spike_threshold: f32,
    /// Decay of m.
    pub beta1: f32,
    /// `1 - beta1`.
    pub one_minus_beta1: f32,
    /// Decay of v.
    pub beta2: f32,
    /// `1 - beta2`.
    pub one_minus_beta2: f32,
    /// Step size with the bias correction of m.
    pub step_size: f32,
    /// Inverse root of the bias correction of v.
    pub inv_sqrt_bias_correction2: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// What is left of the update after SPAM's final decay, else 1.
    pub post_decay: f32,
    /// Share of the weight that decays.
    pub decay: f32,
    /// What a fed-back error is multiplied by, or 0.
    pub feedback: f32,
}

impl AdamArgs {
    /// Constants of which every part vanishes, of step `number` (from 1) of a run; a rule sets what it needs.
    pub fn plain(seed: u64, number: u64) -> Self {
        Self {
            seed,
            number: number as u32,
            density: 1.0,
            spike_threshold: f32::INFINITY,
            inv_sqrt_bias_correction2: 1.0,
            post_decay: 1.0,
            ..Self::new_zeroed()
        }
    }

    /// Whether moments are zeroed in this step: rows that a sparse update would leave out are then updated too.
    pub fn resets(&self) -> bool {
        self.reset_before != 0 || self.reset_after != 0
    }
}
