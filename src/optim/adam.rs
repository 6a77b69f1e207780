//! Adam, AdamW, SPAM and Stable-SPAM: one fused pass of the backend, told apart by its constants.

use super::{
    EmbeddingUpdate, Groups, Optimizer, OptimizerConfig, OptimizerContext, ParamInfo, Rule, RuleInfo, StateConfig,
    StepInfo, Variant,
};
use crate::backend::adam::{AdamArgs, SCALARS, state};
use crate::backend::{Backend, Param, SecondMoment};
use crate::error::{Problems, number};
use crate::memory::Span;
use crate::quant::{StateCodec, StateShape, StateSpec};

/// What is known of Stable-SPAM.
pub(super) const STABLE_SPAM: RuleInfo = RuleInfo {
    title: "Stable-SPAM",
    keys: &[
        "beta1",
        "beta2",
        "eps",
        "gamma1",
        "gamma2",
        "gamma3",
        "reset_interval",
        "momentum_decay",
        "momentum_decay_floor",
        "embedding",
    ],
    variants: &[Variant::Paper, Variant::Reference],
    problems: stable_spam_problems,
    ..ADAMW
};

/// What is known of SPAM.
pub(super) const SPAM: RuleInfo = RuleInfo {
    title: "SPAM",
    keys: &[
        "beta1",
        "beta2",
        "eps",
        "reset_interval",
        "spike_threshold",
        "spike_quiet",
        "reset_warmup",
        "density",
        "embedding",
    ],
    // Spikes are told by it.
    own_v: true,
    problems: spam_problems,
    ..ADAMW
};

/// What is known of AdamW.
pub(super) const ADAMW: RuleInfo = RuleInfo {
    title: "AdamW",
    keys: &["beta1", "beta2", "eps", "embedding"],
    own_v: false,
    variants: &[Variant::Paper],
    // The presets themselves have the rates.
    publish: |_, _| {},
    problems: family_problems,
    groups: |config, state| Groups::one(Box::new(AdamFamily::new(config, state))),
};

/// What is known of Adam.
pub(super) const ADAM: RuleInfo = RuleInfo { title: "Adam", problems: adam_problems, ..ADAMW };

fn family_problems(config: &OptimizerConfig, context: &OptimizerContext, problems: &mut Problems) {
    config.adam_problems(problems);
    config.embedding_problems(context, problems);
    problems.need(
        !context.state.feedback || config.beta1 > 0.0,
        "storage.feedback",
        context.state.feedback,
        "is carried by the momentum, and optimizer.beta1 = 0 has none; set it to false or optimizer.beta1=0.9",
    );
    problems.need(
        !context.state.feedback || config.lr > 0.0,
        "storage.feedback",
        context.state.feedback,
        "divides rounding errors by the learning rate; set it to false or optimizer.lr above 0",
    );
    let reason = "leaves rows as they are, and factored second moments mix each with all others; set it to \"dense\" or \
                  storage.v=\"row\"";
    let mixed = config.embedding == EmbeddingUpdate::Sparse && context.state.v == SecondMoment::Factored;
    problems.need(!mixed, "optimizer.embedding", "\"sparse\"", reason);
}

fn stable_spam_problems(config: &OptimizerConfig, context: &OptimizerContext, problems: &mut Problems) {
    family_problems(config, context, problems);
    problems.decay("optimizer.gamma1", config.gamma1);
    problems.decay("optimizer.gamma2", config.gamma2);
    problems.decay("optimizer.gamma3", config.gamma3);
    let floor = config.momentum_decay_floor;
    problems.need((0.0..=1.0).contains(&floor), "optimizer.momentum_decay_floor", number(floor), "must be 0 to 1");
}

fn spam_problems(config: &OptimizerConfig, context: &OptimizerContext, problems: &mut Problems) {
    family_problems(config, context, problems);
    let threshold = config.spike_threshold;
    let reason = "must be a finite number above 0; 5000 is usual";
    problems.need(threshold > 0.0 && threshold.is_finite(), "optimizer.spike_threshold", number(threshold), reason);
    problems.positive("optimizer.density", config.density, 1.0, ": it is the share of the elements that are updated");
    let reason = "is a mean over many elements, and SPAM tells spikes by each element's own; set it to \"int4\" or \
                  optimizer.name=\"stable-spam\"";
    shared_problems(context, reason, problems);
}

fn adam_problems(config: &OptimizerConfig, context: &OptimizerContext, problems: &mut Problems) {
    family_problems(config, context, problems);
    if config.weight_decay > 0.0 {
        let reason = "is a mean of squared gradients, into which Adam's weight decay would mix the weights; set it to \
                      \"int4\" or optimizer.name=\"adamw\"";
        shared_problems(context, reason, problems);
    }
}

/// Second moments that elements share fit rules that ask for nothing but their root.
fn shared_problems(context: &OptimizerContext, reason: &str, problems: &mut Problems) {
    let word = match context.state.v {
        SecondMoment::Row => "\"row\"",
        SecondMoment::Factored => "\"factored\"",
        SecondMoment::F32 | SecondMoment::Int8 | SecondMoment::Int4 => return,
    };
    problems.need(false, "storage.v", word, reason);
}

/// The rule, with what the configuration says of its state.
pub struct AdamFamily {
    config: OptimizerConfig,
    state: StateConfig,
}

impl AdamFamily {
    /// The rule that `config` names.
    pub fn new(config: &OptimizerConfig, state: StateConfig) -> Self {
        Self { config: config.clone(), state }
    }

    /// The constants of a parameter's step.
    pub(super) fn args(&self, param: &Param, at: &StepInfo) -> AdamArgs {
        AdamStepInfo::new(&self.config, at.number, at.lr, self.state.feedback, at.seed).args(param.decay)
    }
}

impl Optimizer for AdamFamily {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        let v = if param.class.is_vector() { SecondMoment::F32 } else { self.state.v };
        let mut specs = vec![StateSpec::per_weight(state::M, self.state.momentum_of(param))];
        specs.extend(second_moment(v));
        specs.push(StateSpec::floats(state::SCALARS, StateShape::Scalars(SCALARS)));
        specs
    }

    fn fused(&self, param: &Param, at: &StepInfo) -> Option<AdamArgs> {
        Some(self.args(param, at))
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, _: Span, at: &StepInfo) {
        backend.adam(param, grad, &self.args(param, at));
    }
}

/// The second moment as it is stored: one number per element, or means of rows (and of columns).
fn second_moment(kind: SecondMoment) -> Vec<StateSpec> {
    let of_elements = |codec| vec![StateSpec::per_weight(state::V, codec)];
    let rows = StateSpec::floats(state::V_ROWS, StateShape::PerRow);
    match kind {
        SecondMoment::F32 => of_elements(StateCodec::F32),
        SecondMoment::Int8 => of_elements(StateCodec::Int8 { signed: false }),
        SecondMoment::Int4 => of_elements(StateCodec::Int4 { signed: false }),
        SecondMoment::Row => vec![rows],
        SecondMoment::Factored => vec![rows, StateSpec::floats(state::V_COLS, StateShape::PerCol)],
    }
}

/// One optimizer step, counted from 1. AdamArgs are computed in float64 and used in float32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStepInfo {
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

impl AdamStepInfo {
    /// Step `number` (from 1) at learning rate `lr`; `feedback` replays rounding errors through the momentum.
    ///
    /// # Panics
    /// If `number` is zero.
    pub fn new(config: &OptimizerConfig, number: u64, lr: f64, feedback: bool, seed: u64) -> Self {
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

impl AdamStepInfo {
    /// The constants of tensors to which weight decay applies, or of those to which it does not. Computed in float64.
    pub fn args(&self, decays: bool) -> AdamArgs {
        let decay = if decays { self.weight_decay } else { 0.0 };
        let decoupled = if self.rule == Rule::Adam { 0.0 } else { self.lr * decay };
        let spam = self.rule == Rule::Spam;
        // SPAM adds eps to the root of the uncorrected v, the others to that of the corrected one.
        let (per_lr, root) = match spam {
            true => (self.warmup * self.correction2.sqrt() / self.correction1, 1.0),
            false => (1.0 / self.correction1, 1.0 / self.correction2.sqrt()),
        };
        AdamArgs {
            seed: self.seed,
            number: self.number as u32,
            mask_round: self.mask_round,
            density: self.density,
            use_stable_spam: u32::from(self.rule == Rule::StableSpam),
            // The other rules' moments decay, as PyTorch's do.
            freeze_on_zero_grad: u32::from(self.rule == Rule::StableSpam && self.variant == Variant::Paper),
            reset_before: u32::from(self.reset_before),
            reset_after: u32::from(self.reset_after),
            gammas: self.gammas.map(|gamma| gamma as f32),
            one_minus_gammas: self.gammas.map(|gamma| (1.0 - gamma) as f32),
            gamma_corrections: self.gamma_corrections.map(|correction| correction as f32),
            l2: if self.rule == Rule::Adam { decay as f32 } else { 0.0 },
            spike_threshold: self.spike as f32,
            beta1: self.beta1 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            step_size: (self.lr * per_lr) as f32,
            inv_sqrt_bias_correction2: root as f32,
            eps: self.eps as f32,
            // SPAM decays last: (w + d)(1 - c) = w + d (1 - c) - c w.
            post_decay: if spam { (1.0 - decoupled) as f32 } else { 1.0 },
            decay: decoupled as f32,
            feedback: self.feedback(per_lr),
        }
    }

    /// What a fed-back error is multiplied by, without the factor of the second moment (RATIONALE.md derives it:
    /// the next updates replay the error in full). `per_lr` is the step size per learning rate.
    fn feedback(&self, per_lr: f64) -> f32 {
        self.feedback_lr.map_or(0.0, |lr| ((1.0 - 1.0 / self.beta1) / (lr * per_lr)) as f32)
    }
}

/// The cosine that lowers beta1 and gamma1; it stays at its floor past the end.
fn momentum_scale(config: &OptimizerConfig, number: u64) -> f64 {
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
fn spam_warmup(config: &OptimizerConfig, number: u64) -> f64 {
    let (interval, warmup) = (config.reset_interval, config.reset_warmup);
    if config.name != Rule::Spam || interval == 0 || number < interval || number % interval >= warmup {
        return 1.0;
    }
    let angle = std::f64::consts::PI * (number % interval) as f64 / (warmup + 1) as f64;
    1.0 - 0.99 * (1.0 + angle.cos()) / 2.0
}

fn spike_threshold(config: &OptimizerConfig, number: u64) -> f64 {
    let since = if config.reset_interval > 0 { number % config.reset_interval } else { number };
    let quiet = number < config.spike_quiet || since < config.spike_quiet;
    if config.name != Rule::Spam || quiet { f64::INFINITY } else { config.spike_threshold }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::adam::{AdamParams, Clip, Scalars};

    /// Late in a run, so that bias corrections are 1.
    fn rates(name: Rule, feedback: bool, lr: f64) -> AdamParams {
        let config = OptimizerConfig { name, lr: 1e-3, reset_interval: 0, ..OptimizerConfig::default() };
        let step = AdamStepInfo::new(&config, 100_000, lr, feedback, 1);
        step.args(true).params(&mut Scalars::default(), Clip { at: f32::INFINITY, gmax: 1.0 }, 1.0)
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
        assert_eq!(rates(Rule::StableSpam, false, 1e-3).args.feedback, 0.0);
        let (low, floor) = (rates(Rule::StableSpam, true, 1e-9), rates(Rule::StableSpam, true, 1e-4));
        assert_eq!(low.args.feedback, floor.args.feedback, "a tenth of the peak is the least that is divided by");
    }

    /// Steps 3, 6, 9 reset; feedback skips them, and k restarts.
    #[test]
    fn resets_come_when_the_interval_says() {
        let config = OptimizerConfig { reset_interval: 3, ..OptimizerConfig::default() };
        let resets: Vec<_> = (1..=9).filter(|&t| AdamStepInfo::new(&config, t, 1e-3, true, 1).reset_before).collect();
        assert_eq!(resets, [3, 6, 9]);
        for t in resets {
            let rates = |t| AdamStepInfo::new(&config, t, 1e-3, true, 1).args(true);
            assert_eq!(rates(t).feedback, 0.0);
            assert!(rates(t + 1).feedback != 0.0);
            // The first step of an era is as large as the first of all.
            assert_eq!(
                (rates(t).step_size, rates(t).inv_sqrt_bias_correction2),
                (rates(1).step_size, rates(1).inv_sqrt_bias_correction2)
            );
        }
    }
}
