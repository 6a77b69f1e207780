//! How a run ends: what it leaves, what it says, and with which status.

use super::observer::{self, Console};
use crate::cli::number::short;
use crate::cli::output::{escape, shell};
use crate::cli::{CliResult, Failure};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tetrad::checkpoint::{Checkpoint, finished, latest, retire_finished};
use tetrad::error::StoreError;
use tetrad::train::{StopReason, Trainer};

/// What no configuration can cause.
const FROZEN_MOVED: &str = "weights changed in a run with optimizer.lr = 0, which must leave every byte as it was; this is a \
                            defect of the program, please report it with the configuration";

/// Saves the weights of a run that is finished, and says why a run ended; how it is continued, unless it is `chained` to others.
///
/// # Errors
/// A run that went wrong.
pub(super) fn finish(trainer: &Trainer, reason: StopReason, (console, chained): (&Console, bool)) -> CliResult {
    let dir = &trainer.config().run.dir;
    match reason {
        StopReason::Finished => {
            save_finished(trainer, console)?;
            Ok(ExitCode::SUCCESS)
        }
        StopReason::Stopped => {
            crate::cli::output::print(|out| {
                let (step, config) = (trainer.counters().step, shell(&dir.join("config.toml")));
                match chained {
                    true => writeln!(out, "stopped after step {step}, saved"),
                    false => writeln!(
                        out,
                        "stopped after step {step}, saved; continue with `tetrad train {config} --resume`"
                    ),
                }
            })?;
            Ok(ExitCode::SUCCESS)
        }
        StopReason::NotFinite => {
            let last = latest(dir)?.map_or_else(|| "none".into(), |path| escape(&path.to_string_lossy()));
            Err(format!(
                "{} steps in a row had a loss or gradient that was not finite (train.max_nonfinite = {}); the last \
                 checkpoint from before them is {last}; lower optimizer.lr and resume from it",
                trainer.counters().nonfinite_in_a_row,
                trainer.config().train.max_nonfinite
            )
            .into())
        }
        StopReason::OutOfPatience { validations } => {
            let best = trainer
                .watch()
                .best
                .map_or_else(String::new, |(loss, step)| format!("; the best was {loss:.4} after step {step}"));
            save_finished(trainer, console)?;
            crate::cli::output::print(|out| {
                let step = trainer.counters().step;
                writeln!(out, "ended after step {step}: {validations} validations without an improvement{best}")
            })?;
            Ok(ExitCode::SUCCESS)
        }
        StopReason::Spike(spike) => {
            let last = latest(dir)?.map_or_else(|| "none".into(), |path| escape(&path.to_string_lossy()));
            let step = trainer.counters().step;
            Err(format!(
                "{} (train.spike_z = {}); the last checkpoint is {last}; look at the batch, lower optimizer.lr, or set \
                 train.on_spike",
                observer::describe(step, &spike),
                short(trainer.config().train.spike_z)
            )
            .into())
        }
        StopReason::Unmoved { steps } => Err(format!(
            "no weight of the blocks changed in the last {steps} steps, though their learning rates were up to {} \
             (train.max_unmoved = {}): updates are too small for the storage; raise optimizer.lr, or set \
             train.max_unmoved=0 to go on",
            short(trainer.config().optimizer.lr),
            trainer.config().train.max_unmoved
        )
        .into()),
        StopReason::FrozenMoved => Err(FROZEN_MOVED.into()),
    }
}

/// Saves the weights of a run that is at its end, and sums it up. Where nothing was trained nothing changes, whatever the
/// configuration says by now.
fn save_finished(trainer: &Trainer, console: &Console) -> Result<(), Failure> {
    let step = trainer.counters().step;
    let is_its = |path: &PathBuf| Checkpoint::open(path).is_ok_and(|file| file.meta.counters.step == step);
    let path = match finished(&trainer.config().run.dir).filter(|path| console.steps() == 0 && is_its(path)) {
        Some(path) => path,
        None => console.folder.save_finished(trainer)?,
    };
    Ok(console.summarize(trainer, &path)?)
}

/// Gives finished weights another name as the run goes on from step `step`, and says so.
pub(super) fn retire(dir: &Path, step: u64) -> Result<(), StoreError> {
    if let Some(path) = retire_finished(dir, step)? {
        let shown = escape(&path.to_string_lossy());
        eprintln!("note: the run goes on from step {step}; the weights that it had finished with are now {shown}");
    }
    Ok(())
}
