//! The folder of a run in the hands of the one process that writes it.

use super::load::Checkpoint;
use super::meta::{Meta, TOKENIZER};
use super::runs::{ADAPTER, BEST, METRICS, MODEL, checkpoint_path, list, prune, remove};
use super::save::{Extent, save_divided};
use crate::config::Config;
use crate::error::{CheckpointError, StoreError};
use crate::format::Attachment;
use crate::train::{Events, Line, Metrics, Trainer};
use std::path::{Path, PathBuf};

/// What a run leaves as it goes: checkpoints, the best weights, and metrics. Whatever a crash leaves of it, a run that goes
/// on from the newest sound checkpoint ends in the same files.
pub struct RunFolder {
    metrics: Metrics,
    fingerprint: String,
    attachments: Vec<(&'static str, Vec<u8>)>,
}

impl RunFolder {
    /// Opens `run.dir`, which exists, for a run that is where `trainer` is and trains on the data of this fingerprint
    /// ([`Prepared::fingerprint`](crate::data::Prepared::fingerprint)). Every file of the run gets the `attachments`, except
    /// adapters, whose base has them.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(
        trainer: &Trainer,
        fingerprint: &str,
        mut attachments: Vec<(&'static str, Vec<u8>)>,
    ) -> Result<Self, StoreError> {
        let (config, step) = (trainer.config(), trainer.counters().step);
        if config.adapter.is_some() {
            attachments.clear();
        }
        let metrics = metrics(config, step, trainer.watch().left_out())?;
        Ok(Self { metrics, fingerprint: fingerprint.into(), attachments })
    }

    /// Appends a line to the metrics.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&mut self, line: &Line) -> Result<(), StoreError> {
        self.metrics.write(line)
    }

    /// Writes a checkpoint, and deletes those that `train.keep` lets go. Other ranks than 0
    /// [`contribute`](super::contribute) meanwhile.
    ///
    /// # Errors
    /// Those of the file system, or of the device.
    pub fn save(&self, trainer: &Trainer) -> Result<(), CheckpointError> {
        // A run that goes on from the checkpoint never writes the lines before it again.
        self.metrics.sync()?;
        let config = trainer.config();
        self.save_to(trainer, Extent::Full, &checkpoint_path(&config.run.dir, trainer.counters().step))?;
        Ok(prune(&config.run.dir, &config.train)?)
    }

    /// Keeps the weights as the best so far.
    ///
    /// # Errors
    /// As [`RunFolder::save`].
    pub fn save_best(&self, trainer: &Trainer) -> Result<(), CheckpointError> {
        self.save_to(trainer, Extent::Weights, &trainer.config().run.dir.join(BEST))
    }

    /// Writes the weights of a run that is finished; their path.
    ///
    /// # Errors
    /// As [`RunFolder::save`].
    pub fn save_finished(&self, trainer: &Trainer) -> Result<PathBuf, CheckpointError> {
        let path = trainer.config().run.dir.join(if trainer.base().is_some() { ADAPTER } else { MODEL });
        self.save_to(trainer, Extent::Weights, &path)?;
        Ok(path)
    }

    /// Puts the last state into `trainer` that was saved by `train.checkpoint_every` in calm times, and deletes what came
    /// after it; its step, or nothing if there is none. The metrics go on from there.
    ///
    /// # Errors
    /// As [`RunFolder::save`].
    pub fn go_back(&mut self, trainer: &mut Trainer) -> Result<Option<u64>, CheckpointError> {
        let (dir, train) = (trainer.config().run.dir.clone(), trainer.config().train.clone());
        let at = trainer.counters().step;
        let found = list(&dir)?;
        for (step, path) in found.iter().rev().filter(|(step, _)| *step < at && step % train.checkpoint_every == 0) {
            let checkpoint = match Checkpoint::open_sound(path) {
                Ok(checkpoint) => checkpoint,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            // One that a signal left at such a step, amid spikes, would not be there in a run without signals.
            if !checkpoint.meta.watch.is_calm() || checkpoint.meta.counters.nonfinite_in_a_row > 0 {
                continue;
            }
            checkpoint.restore(trainer, &self.fingerprint)?;
            // The run that left them is no more.
            found.iter().filter(|(later, _)| later > step).try_for_each(|(_, later)| remove(later))?;
            forget_best(&dir, trainer)?;
            self.metrics = metrics(trainer.config(), *step, usize::MAX)?;
            return Ok(Some(*step));
        }
        Ok(None)
    }

    /// Writes a file of this run; to one with [all](Extent::Full) of its state other ranks than 0
    /// [`contribute`](super::contribute) meanwhile.
    ///
    /// # Errors
    /// As [`RunFolder::save`].
    pub fn save_to(&self, trainer: &Trainer, extent: Extent, path: &Path) -> Result<(), CheckpointError> {
        let tokenizer = self.attachments.iter().any(|(name, _)| *name == TOKENIZER);
        let meta = Meta::new(trainer.config(), trainer.counters(), tokenizer, &self.fingerprint);
        let meta = meta.with_base(trainer.base()).with_watch(trainer.watch());
        let attachments: Vec<_> = self.attachments.iter().map(|(name, bytes)| Attachment { name, bytes }).collect();
        save_divided(trainer, &meta, &attachments, extent, path)
    }
}

/// Deletes best weights of a run that is no more: later than the state that was gone back to. They replaced those from before
/// it, if there were any, so that the next validation is the best again.
fn forget_best(dir: &Path, trainer: &mut Trainer) -> Result<(), CheckpointError> {
    let path = dir.join(BEST);
    if path.is_file() && Checkpoint::open(&path).is_ok_and(|best| best.meta.counters.step > trainer.counters().step) {
        remove(&path)?;
        trainer.watch_mut().best = None;
    }
    Ok(())
}

/// The metrics of a run from a step on.
fn metrics(config: &Config, step: u64, rewinds: usize) -> Result<Metrics, StoreError> {
    let dir = &config.run.dir;
    let events = config.run.tensorboard.then(|| Events::create(dir, step)).transpose()?;
    Ok(Metrics::open(&dir.join(METRICS), step, rewinds)?.with_events(events))
}
