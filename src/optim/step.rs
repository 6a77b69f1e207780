//! What is the same for all tensors of a step: decays, bias corrections, resets.

use super::{Optimizer, Rule, Variant};

/// One optimizer step, counted from 1. Constants are computed in float64 and used in float32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// t
    pub number: u64,
    /// Seed of the run.
    pub seed: u64,
    pub(super) rule: Rule,
    pub(super) variant: Variant,
    pub(super) lr: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    /// `1 - beta1^k` and `1 - beta2^k`.
    pub(super) correction1: f64,
    pub(super) correction2: f64,
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    pub(super) gammas: [f64; 3],
    /// `1 - gamma^t`, per gamma.
    pub(super) gamma_corrections: [f64; 3],
    /// SPAM's factor after a reset.
    pub(super) warmup: f64,
    /// SPAM's threshold, infinite in quiet steps.
    pub(super) spike: f64,
    /// The learning rate by which fed-back errors are divided; `None`: no feedback in this step.
    pub(super) feedback_lr: Option<f64>,
    /// Moments are zero before they are used.
    pub reset_before: bool,
    /// Moments are used, then zeroed (the published Stable-SPAM code).
    pub reset_after: bool,
    /// SPAM's share of updated elements; their mask changes with `mask_round`.
    pub density: f32,
    /// Resets so far.
    pub mask_round: u32,
}

impl Step {
    /// Whether moments are zeroed in this step: rows that a sparse update would leave out are then updated too.
    pub fn resets(&self) -> bool {
        self.reset_before || self.reset_after
    }

    /// Step `number` (from 1) at learning rate `lr`; `feedback` replays rounding errors through the momentum.
    ///
    /// # Panics
    /// If `number` is zero.
    pub fn new(config: &Optimizer, number: u64, lr: f64, feedback: bool, seed: u64) -> Self {
        assert!(number > 0, "steps are counted from 1");
        let resets = matches!(config.name, Rule::StableSpam | Rule::Spam) && config.reset_interval > 0;
        let interval = if resets { config.reset_interval } else { u64::MAX };
        let reset = number.is_multiple_of(interval);
        let restarts = config.name == Rule::StableSpam && number >= interval;
        // k: steps since the last reset, which is itself step 1 of its era.
        let k = if restarts { number % interval + 1 } else { number };
        let scale = momentum_scale(config, number);
        let beta1 = config.beta1 * scale;
        let gammas = [config.gamma1 * scale, config.gamma2, config.gamma3];
        let t = match (config.name, config.variant) {
            (Rule::StableSpam, Variant::Reference) => reference_count(number, interval, k),
            _ => number,
        };
        let corrected = |decay: f64, steps: u64| 1.0 - decay.powf(steps as f64);
        Self {
            number,
            seed,
            rule: config.name,
            variant: config.variant,
            lr,
            beta1,
            beta2: config.beta2,
            correction1: corrected(beta1, k),
            correction2: corrected(config.beta2, k),
            eps: config.eps,
            weight_decay: config.weight_decay,
            gammas,
            gamma_corrections: gammas.map(|gamma| corrected(gamma, t)),
            warmup: spam_warmup(config, number),
            spike: spike_threshold(config, number),
            // At a reset there is no momentum to replay through; late in a schedule the division by a vanishing
            // learning rate would blow errors up.
            feedback_lr: (feedback && k > 1 && beta1 > 0.0).then_some(lr.max(0.1 * config.lr)),
            reset_before: reset && (config.name == Rule::Spam || config.variant == Variant::Paper),
            reset_after: reset && config.name == Rule::StableSpam && config.variant == Variant::Reference,
            density: if config.name == Rule::Spam { config.density as f32 } else { 1.0 },
            mask_round: (number / interval) as u32,
        }
    }
}

/// The cosine that lowers beta1 and gamma1; it stays at its floor past the end.
fn momentum_scale(config: &Optimizer, number: u64) -> f64 {
    if config.name != Rule::StableSpam || config.momentum_decay == 0 {
        return 1.0;
    }
    let (total, floor) = (config.momentum_decay, config.momentum_decay_floor);
    let angle = std::f64::consts::PI * number.min(total) as f64 / (total + 1) as f64;
    floor + (1.0 - floor) * (1.0 + angle.cos()) / 2.0
}

/// In the published code the counter of the bias corrections of T, mu and nu restarts with k, one step late.
fn reference_count(number: u64, interval: u64, k: u64) -> u64 {
    match number.is_multiple_of(interval) {
        true if number == interval => number,
        true => interval + 1,
        false => k,
    }
}

/// SPAM's cosine warm-up after a reset; 1 before the first.
fn spam_warmup(config: &Optimizer, number: u64) -> f64 {
    let (interval, warmup) = (config.reset_interval, config.reset_warmup);
    if config.name != Rule::Spam || interval == 0 || number < interval || number % interval >= warmup {
        return 1.0;
    }
    let angle = std::f64::consts::PI * (number % interval) as f64 / (warmup + 1) as f64;
    1.0 - 0.99 * (1.0 + angle.cos()) / 2.0
}

fn spike_threshold(config: &Optimizer, number: u64) -> f64 {
    let since = if config.reset_interval > 0 { number % config.reset_interval } else { number };
    let quiet = number < config.spike_quiet || since < config.spike_quiet;
    if config.name != Rule::Spam || quiet { f64::INFINITY } else { config.spike_threshold }
}
