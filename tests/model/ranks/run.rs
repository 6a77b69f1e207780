//! The loop on several ranks, and a rank that is lost.

use super::{Life, SEQUENCE, Steps, config, joined, on_each};
use crate::harness::state::whole_state;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tetrad::config::Config;
use tetrad::data::{Batches, Tokens, Windows};
use tetrad::error::{BackendError, RanksError};
use tetrad::ranks::{Alone, Ranks};
use tetrad::train::{AuditReport, Observer, Samples, StepReport, StopReason, Trainer, Validation, run};

/// What a run shows.
#[derive(Default)]
struct Log {
    losses: Vec<u64>,
    validations: Vec<(u64, u64)>,
    audits: Vec<AuditReport>,
    saved: u64,
    /// Set after this step.
    stop: Option<(u64, Arc<AtomicBool>)>,
}

impl Observer for Log {
    type Error = BackendError;

    fn on_step(&mut self, _: &Trainer, report: &StepReport, _: Duration) -> Result<(), BackendError> {
        self.losses.push(report.loss.to_bits());
        self.audits.extend(report.audit);
        if let Some((_, stop)) = self.stop.as_ref().filter(|(at, _)| *at == report.step) {
            stop.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    fn on_validation(&mut self, validation: &Validation) -> Result<(), BackendError> {
        self.validations.push((validation.loss.to_bits(), validation.targets));
        Ok(())
    }

    fn sample(&mut self, _: &mut Trainer) -> Result<(), BackendError> {
        Ok(())
    }

    fn save(&mut self, trainer: &Trainer) -> Result<(), BackendError> {
        self.saved = trainer.counters().step;
        Ok(())
    }
}

/// The loop of rank `ranks`; `stop`: the rank that is asked to stop, and after which step.
fn looped(config: &Config, ranks: Arc<dyn Ranks>, stop: Option<(usize, u64)>) -> (Log, StopReason, Vec<Vec<u8>>) {
    let text = |len: u32| Tokens::from_ids(&(0..len).map(|i| i * i % 251).collect::<Vec<_>>());
    let validation = Windows::new(text(13 * SEQUENCE as u32 + 1), SEQUENCE, 0).unwrap();
    let train = Batches::new(text(4000), SEQUENCE, 1).unwrap();
    let (rank, asked) = (ranks.rank(), Arc::new(AtomicBool::new(false)));
    let mut trainer = Life::new(config).trainer(ranks, 1);
    let own = stop.filter(|(who, _)| *who == rank).map(|(_, step)| (step, asked.clone()));
    let mut log = Log { stop: own, ..Log::default() };
    let samples = Samples { train, validation: Some(validation) };
    let reason = run(&mut trainer, &samples, u64::MAX, &asked, &mut log).unwrap();
    trainer.ranks().finish().unwrap();
    (log, reason, whole_state(&trainer))
}

#[test]
fn the_loop_validates_and_stops_on_all_ranks_alike() {
    let mut config = config();
    (config.train.steps, config.train.warmup, config.train.eval_every, config.train.audit_every) = (6, 2, 3, 2);
    let (alone, reason, state) = looped(&config, Arc::new(Alone), None);
    assert_eq!((reason, alone.validations.len(), alone.losses.len()), (StopReason::Finished, 2, 6));
    assert!(alone.audits.len() == 3 && alone.audits[2].moved_bytes > 0.0, "{:?}", alone.audits);
    for size in [2, 4] {
        let mut ends = Vec::new();
        for (log, reason, found) in on_each(size, |ranks| looped(&config, ranks, None)) {
            assert_eq!((reason, &log.losses), (StopReason::Finished, &alone.losses));
            assert_eq!((&log.validations, &log.audits), (&alone.validations, &alone.audits), "{size} ranks");
            ends.push((Steps::new(), found));
        }
        assert!(joined(ends).1 == state, "{size} ranks");
    }
    // Frozen weights are compared where they lie.
    config.optimizer.lr = 0.0;
    for (_, reason, _) in on_each(2, |ranks| looped(&config, ranks, None)) {
        assert_eq!(reason, StopReason::Finished);
    }
    // One rank is asked, and all stop after the same step.
    for (log, reason, _) in on_each(3, |ranks| looped(&config, ranks, Some((2, 4)))) {
        assert_eq!((reason, log.saved, log.losses.len()), (StopReason::Stopped, 4, 4));
    }
}

#[test]
fn a_lost_rank_ends_the_others_before_they_learn_without_it() {
    let config = config();
    let found = on_each(3, |ranks| {
        let rank = ranks.rank();
        let mut trainer = Life::new(&config).trainer(ranks, 1);
        if rank == 1 {
            // It takes one step and is gone.
            Life { steps: 0..1, ..Life::new(&config) }.live(&mut trainer);
            return None;
        }
        Life { steps: 0..1, ..Life::new(&config) }.live(&mut trainer);
        let before = whole_state(&trainer);
        let rows = trainer.rows().len() * SEQUENCE;
        trainer.step(&vec![1; rows], &vec![2; rows]);
        Some((trainer.status(), whole_state(&trainer) == before))
    });
    for (status, same) in found.into_iter().flatten() {
        assert!(matches!(status, Err(BackendError::Ranks(RanksError::Lost { .. }))), "{status:?}");
        assert!(same, "a step without a part of its batch was learned");
    }
}
