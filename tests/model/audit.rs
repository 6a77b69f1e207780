//! The audit of the weights' moves, and runs that stand still.

use super::harness::small;
use super::harness::state::read;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tetrad::backend::cpu::Cpu;
use tetrad::config::Config;
use tetrad::data::{Batches, Tokens};
use tetrad::error::BackendError;
use tetrad::memory::Span;
use tetrad::model::{Scheme, Weights, fill};
use tetrad::optim::Schedule;
use tetrad::train::{Audit, AuditReport, Observer, Samples, StepReport, StopReason, Trainer, Validation, run};

/// What the audits found, and what happens after a step.
#[derive(Default)]
struct Log {
    found: Vec<(u64, AuditReport)>,
    poke_at: u64,
}

impl Observer for Log {
    type Error = BackendError;

    fn on_step(&mut self, _: &Trainer, report: &StepReport, _: Duration) -> Result<(), BackendError> {
        self.found.extend(report.audit.map(|audit| (report.step, audit)));
        Ok(())
    }

    fn on_validation(&mut self, _: &Validation) -> Result<(), BackendError> {
        Ok(())
    }

    fn sample(&mut self, trainer: &mut Trainer) -> Result<(), BackendError> {
        if trainer.counters().step == self.poke_at {
            // One value of a norm, outside of every sample.
            let gain = trainer.model().params.final_norm.gain;
            fill(trainer.backend_mut(), &gain.weight, &mut |_, row| row[3] = 0.5);
        }
        Ok(())
    }

    fn save(&mut self, _: &Trainer) -> Result<(), BackendError> {
        Ok(())
    }
}

fn config(steps: u64, every: u64) -> Config {
    let mut config = small::config();
    let train = &mut config.train;
    (train.steps, train.audit_every, train.sample_every) = (steps, every, 1);
    config
}

fn train(config: &Config, log: &mut Log) -> (Trainer, StopReason) {
    let mut trainer = small::trainer(config, Box::new(Cpu::new()));
    let text: Vec<u32> = (0..4000).map(|i| i * i % 251).collect();
    let batches = Batches::new(Tokens::from_ids(&text), config.train.sequence, 1).unwrap();
    let samples = Samples { train: batches, validation: None };
    let reason = run(&mut trainer, &samples, u64::MAX, &AtomicBool::new(false), log).unwrap();
    (trainer, reason)
}

#[test]
fn a_run_that_moves_is_audited_at_its_cadence() {
    let mut log = Log::default();
    let (_, reason) = train(&config(30, 5), &mut log);
    assert_eq!(reason, StopReason::Finished);
    assert_eq!(log.found.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [5, 10, 15, 20, 25, 30]);
    for (step, audit) in &log.found {
        let codes = audit.moved_codes.unwrap();
        assert!(0.0 < codes && codes < audit.moved_bytes && audit.moved_bytes < 1.0, "{step}: {audit:?}");
        assert!((audit.moved_bytes + audit.unmoved_updates - 1.0).abs() < 0.1, "{step}: {audit:?}");
        assert!(audit.saturated_codes.unwrap() < 0.1 && audit.median_scale.unwrap() > 1e-3, "{step}: {audit:?}");
        assert!(audit.reversed_moves.is_some_and(|share| (0.0..=1.0).contains(&share)), "{step}: {audit:?}");
    }
    assert!(log.found.iter().any(|(_, audit)| audit.reversed_moves > Some(0.0)), "codes do go back");
    let rescaled = log.found.iter().map(|(_, audit)| audit.rescaled_up.unwrap() + audit.rescaled_down.unwrap());
    assert!(rescaled.sum::<f64>() > 0.0, "at this rate groups outgrow their scales");
    let mut none = Log::default();
    train(&config(10, 0), &mut none);
    assert!(none.found.is_empty());
}

/// The planes of the blocks' matrices.
fn matrices(trainer: &Trainer) -> Vec<(Span, Vec<u8>)> {
    let model = trainer.model();
    let blocks = model.specs.iter().zip(&model.stored);
    let blocks = blocks.filter(|(spec, _)| spec.kind.block().is_some() && !spec.kind.is_vector());
    let spans = blocks.flat_map(|(_, param)| [param.weight.data, param.weight.residue]);
    spans.filter(|span| !span.is_none()).map(|span| (span, read(trainer, span))).collect()
}

/// Bytes of codes and residues hold two weights each, so a plain count of nibbles is the reference.
fn nibbles_that_differ(before: &[(Span, Vec<u8>)], after: &[(Span, Vec<u8>)]) -> f64 {
    let pairs = || before.iter().zip(after).flat_map(|(a, b)| a.1.iter().zip(&b.1));
    let moved: usize = pairs().map(|(a, b)| usize::from((a ^ b) & 15 != 0) + usize::from((a ^ b) >> 4 != 0)).sum();
    moved as f64 / (2 * pairs().count()) as f64
}

#[test]
fn the_sample_agrees_with_all_weights() {
    let mut config = config(10, 1);
    // No padding and no residue: then the nibbles of the planes are the weights.
    (config.model.intermediate, config.storage.residue) = (128, false);
    config.optimizer.lr = 2e-2;
    let mut trainer = small::trainer(&config, Box::new(Cpu::new()));
    let mut audit = Audit::new(&mut trainer);
    for number in 1..=10 {
        let (inputs, targets) = small::batch(number);
        let before = matrices(&trainer);
        audit.before(&mut trainer);
        let mut report = trainer.step(&inputs, &targets);
        assert_eq!(audit.after(&mut trainer, &mut report), None);
        let (found, all) = (report.audit.unwrap(), nibbles_that_differ(&before, &matrices(&trainer)));
        assert!(
            (found.moved_bytes - all).abs() < 0.04,
            "step {number}: {} of the sample, {all} of all",
            found.moved_bytes
        );
        assert_eq!(Some(found.moved_bytes), found.moved_codes, "without a residue codes are all there is");
    }
}

#[test]
fn every_storage_is_audited_by_what_it_has() {
    for (weights, scheme, packed) in [
        (Weights::Int4, Scheme::Asymmetric, true),
        (Weights::Int4Simulated, Scheme::Symmetric, false),
        (Weights::Bf16, Scheme::Symmetric, false),
        (Weights::F32, Scheme::Symmetric, false),
    ] {
        let mut config = config(6, 3);
        (config.storage.weights, config.storage.scheme) = (weights, scheme);
        let mut log = Log::default();
        train(&config, &mut log);
        let (_, audit) = log.found.last().unwrap();
        assert!(audit.moved_bytes > 0.0, "{weights:?}: {audit:?}");
        let of_codes = [audit.moved_codes, audit.rescaled_up, audit.saturated_codes, audit.median_scale];
        assert!(of_codes.iter().all(|value| value.is_some() == packed), "{weights:?}: {audit:?}");
    }
}

#[test]
fn the_seed_alone_chooses_the_sample() {
    let audits = |seed: u64| {
        let mut config = config(3, 1);
        config.run.seed = seed;
        let mut log = Log::default();
        train(&config, &mut log);
        log.found
    };
    assert_eq!(audits(1), audits(1));
    assert_ne!(audits(1), audits(2));
}

#[test]
fn a_frozen_run_keeps_every_byte_and_one_that_does_not_is_stopped() {
    let mut config = config(12, 4);
    config.optimizer.lr = 0.0;
    config.optimizer.weight_decay = 0.1;
    let mut log = Log::default();
    let (trainer, reason) = train(&config, &mut log);
    assert_eq!((reason, log.found.len()), (StopReason::Finished, 3), "a frozen run is not one that stands still");
    for (_, audit) in &log.found {
        assert_eq!((audit.moved_bytes, audit.unmoved_updates, audit.reversed_moves), (0.0, 1.0, None));
    }
    let start = small::trainer(&config, Box::new(Cpu::new()));
    for (now, then) in trainer.model().stored.iter().zip(&start.model().stored) {
        for (now, then) in now.weight.planes().into_iter().zip(then.weight.planes()) {
            assert!(read(&trainer, now) == read(&start, then), "parameter {}", start.model().stored[0].id);
        }
    }
    // After step 9 the audit of step 12 must see it.
    let (trainer, reason) = train(&config, &mut Log { poke_at: 9, ..Log::default() });
    assert_eq!((reason, trainer.counters().step), (StopReason::FrozenMoved, 12));
}

#[test]
fn weights_that_stand_still_at_a_positive_rate_end_the_run() {
    let mut config = config(1000, 10);
    (config.optimizer.lr, config.train.max_unmoved) = (1e-30, 25);
    (config.train.warmup, config.train.schedule) = (0, Schedule::Constant);
    let (trainer, reason) = train(&config, &mut Log::default());
    // The audits of steps 10 to 40 find nothing; 30 steps lie between the first and the last of them.
    assert_eq!((reason, trainer.counters().step), (StopReason::Unmoved { steps: 30 }, 40));
    config.train.max_unmoved = 0;
    config.train.steps = 60;
    assert_eq!(train(&config, &mut Log::default()).1, StopReason::Finished);
    // Steps at a rate of 0 at the end of a schedule do not count.
    (config.optimizer.lr, config.train.max_unmoved) = (4e-3, 5);
    (config.train.schedule, config.train.final_lr, config.train.steps) = (Schedule::Linear, 0.0, 30);
    assert_eq!(train(&config, &mut Log::default()).1, StopReason::Finished);
}
