//! The loop over steps: when to evaluate, sample, save, and stop.

use super::{Audit, Spike, StepReport, Trainer};
use crate::config::OnSpike;
use crate::data::{Batches, Windows};
use crate::error::BackendError;
use crate::store::ticks;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Mean validation loss, and the number of targets it is the mean of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// Steps done.
    pub step: u64,
    /// Nats per token.
    pub loss: f64,
    /// Targets.
    pub targets: u64,
    /// How long it took.
    pub took: Duration,
}

/// What the loop does next, which may take long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A step: forward through so many blocks, and backward ([`Model::passes`](crate::model::Model::passes) counts both).
    Step {
        /// Blocks of the model.
        blocks: u64,
    },
    /// A validation.
    Validation {
        /// Passes of blocks in all.
        passes: u64,
    },
    /// A checkpoint is written.
    Save,
}

/// Callbacks of the loop.
pub trait Observer {
    /// Why the observer ended the run, or the device failed.
    type Error: From<BackendError>;

    /// `work` begins.
    fn begins(&mut self, trainer: &Trainer, work: Work) {
        let _ = (trainer, work);
    }

    /// After a step; `took` is its time without evaluation and saving.
    ///
    /// # Errors
    /// Ends the run.
    fn on_step(&mut self, trainer: &Trainer, report: &StepReport, took: Duration) -> Result<(), Self::Error>;

    /// After a validation.
    ///
    /// # Errors
    /// Ends the run.
    fn on_validation(&mut self, validation: &Validation) -> Result<(), Self::Error>;

    /// A text sample is due.
    ///
    /// # Errors
    /// Ends the run.
    fn sample(&mut self, trainer: &mut Trainer) -> Result<(), Self::Error>;

    /// A checkpoint is due.
    ///
    /// # Errors
    /// Ends the run.
    fn save(&mut self, trainer: &Trainer) -> Result<(), Self::Error>;

    /// The validation is the best so far, and its weights are to be kept.
    ///
    /// # Errors
    /// Ends the run.
    fn save_best(&mut self, trainer: &Trainer) -> Result<(), Self::Error> {
        let _ = trainer;
        Ok(())
    }

    /// The step was a spike: puts the last state into `trainer` that was saved by `train.checkpoint_every`, not because a
    /// run was stopped, so that a run that was stopped goes back to the same. False if there is none.
    ///
    /// # Errors
    /// Ends the run.
    fn go_back(&mut self, trainer: &mut Trainer, spike: &Spike) -> Result<bool, Self::Error> {
        let _ = (trainer, spike);
        Ok(false)
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StopReason {
    /// All steps are done.
    Finished,
    /// It was asked to stop, and saved.
    Stopped,
    /// Too many consecutive steps had a loss or gradient that was not finite. The last checkpoint is from before them.
    NotFinite,
    /// The weights of the blocks are byte for byte what they were this many steps ago, though each of those steps had a
    /// learning rate above 0.
    Unmoved {
        /// Steps that should have moved them.
        steps: u64,
    },
    /// Weights changed in a run whose learning rate is 0.
    FrozenMoved,
    /// The loss or gradient of a step was far from its usual range. The last checkpoint is from before it.
    Spike(Spike),
    /// So many validations in a row brought no improvement; it saved.
    OutOfPatience {
        /// Validations since the best.
        validations: u64,
    },
}

/// The data of a run.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Training.
    pub train: Batches,
    /// Validation, if any text was held out.
    pub validation: Option<Windows>,
}

/// Runs until `until` steps are done (at most `train.steps`), or until `stop` is set, which ends it after the current
/// step.
///
/// # Errors
/// The observer's, or a failure of the device.
pub fn run<O: Observer>(
    trainer: &mut Trainer,
    samples: &Samples,
    until: u64,
    stop: &AtomicBool,
    observer: &mut O,
) -> Result<StopReason, O::Error> {
    let train = trainer.config().train.clone();
    let rows = trainer.rows();
    let tokens = rows.len() * train.sequence;
    let (mut inputs, mut targets) = (vec![0; tokens], vec![0; tokens]);
    let mut segment_start = vec![0; if trainer.config().data.shares_rows { tokens } else { 0 }];
    let mut audit = Audit::new(trainer);
    while trainer.counters().step < train.steps {
        if trainer.watch().is_out_of_patience(&train) {
            return out_of_patience(trainer, observer);
        }
        // A request to one rank stops all, after the same step.
        let asked = trainer.team().any(stop.load(Ordering::SeqCst));
        trainer.status()?;
        if asked || trainer.counters().step >= until {
            observer.begins(trainer, Work::Save);
            observer.save(trainer)?;
            return Ok(StopReason::Stopped);
        }
        let begun = ticks();
        let blocks = trainer.config().model.layers as u64;
        observer.begins(trainer, Work::Step { blocks });
        trainer.pass_left_out();
        let position = if train.overfit { 0 } else { trainer.counters().position };
        let first = position.wrapping_add(rows.start as u64);
        samples.train.fill_segments(first, &mut inputs, &mut targets, &mut segment_start);
        audit.before(trainer);
        let mut report = trainer.step_segments(&inputs, &targets, &segment_start);
        let spike = trainer.watch_mut().see(&report, &train);
        let verdict = audit.after(trainer, &mut report);
        // Before results are used that a failed device, or a lost rank, never computed.
        trainer.status()?;
        observer.on_step(trainer, &report, ticks().saturating_sub(begun))?;
        if let Some(spike) = spike {
            let most = train.max_nonfinite;
            match train.on_spike {
                OnSpike::Skip if trainer.watch().in_a_row <= most => {}
                OnSpike::Rewind if trainer.watch().left_out() < train.max_rewinds => {
                    // The checkpoint may be from before an earlier spike was found.
                    let found = trainer.watch().clone();
                    if !observer.go_back(trainer, &spike)? {
                        return Ok(StopReason::Spike(spike));
                    }
                    trainer.watch_mut().leave_out_too(&found);
                    trainer.watch_mut().leave_out(position, train.batch as u64);
                    audit = Audit::new(trainer);
                    continue;
                }
                _ => return Ok(StopReason::Spike(spike)),
            }
        }
        if trainer.counters().nonfinite_in_a_row > train.max_nonfinite {
            return Ok(StopReason::NotFinite);
        }
        if let Some(reason) = verdict {
            return Ok(reason);
        }
        let last = report.step == train.steps;
        let due = |every: u64| last || (every > 0 && report.step.is_multiple_of(every));
        if let Some(windows) = samples.validation.as_ref().filter(|_| due(train.eval_every)) {
            let passes = blocks * windows.len().div_ceil(train.batch) as u64;
            observer.begins(trainer, Work::Validation { passes });
            let validation = validate(trainer, windows, &mut inputs, &mut targets, &mut segment_start);
            trainer.status()?;
            observer.on_validation(&validation)?;
            let watched = train.keep_best || train.patience > 0;
            if watched && trainer.watch_mut().validated(validation.loss, report.step) && train.keep_best {
                observer.save_best(trainer)?;
            }
        }
        if due(train.sample_every) && train.sample_tokens > 0 {
            observer.sample(trainer)?;
        }
        // A checkpoint from a series of bad steps would replace one from before it.
        let clean = trainer.counters().nonfinite_in_a_row == 0 && spike.is_none();
        if due(train.checkpoint_every) && (last || clean) {
            observer.begins(trainer, Work::Save);
            observer.save(trainer)?;
        }
    }
    Ok(StopReason::Finished)
}

/// Ends a run whose validations no longer improve.
fn out_of_patience<O: Observer>(trainer: &mut Trainer, observer: &mut O) -> Result<StopReason, O::Error> {
    observer.begins(trainer, Work::Save);
    observer.save(trainer)?;
    Ok(StopReason::OutOfPatience { validations: trainer.watch().since_best })
}

/// Mean loss over all windows; `inputs` and `targets` hold this rank's rows of a training batch, and so does `segment_start` if
/// rows may hold several samples, else nothing. Batches are divided among ranks as those of training are.
pub fn validate(
    trainer: &mut Trainer,
    windows: &Windows,
    inputs: &mut [u32],
    targets: &mut [u32],
    segment_start: &mut [u32],
) -> Validation {
    let (batch, sequence) = (trainer.config().train.batch, trainer.config().train.sequence);
    let (begun, rows) = (ticks(), trainer.rows());
    let mut sum = 0.0;
    for row in (0..windows.len()).step_by(batch) {
        let end = rows.end.min(windows.len() - row);
        let tokens = end.saturating_sub(rows.start) * sequence;
        let (inputs, targets) = (&mut inputs[..tokens], &mut targets[..tokens]);
        let segment_start = if segment_start.is_empty() { &mut [][..] } else { &mut segment_start[..tokens] };
        windows.fill_segments(row + rows.start, inputs, targets, segment_start);
        sum += trainer.evaluate_rows(inputs, targets, segment_start);
    }
    let sum = trainer.team().share(sum);
    let targets = windows.targets();
    let took = ticks().saturating_sub(begun);
    Validation { step: trainer.counters().step, loss: sum / targets.max(1) as f64, targets, took }
}
