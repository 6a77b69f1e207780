//! `--adapter FILE[=SCALE]`.

use super::Failure;
use super::model_file::finished_adapter;
use std::path::Path;
use tetrad::checkpoint::{Adapted, Adapter, Checkpoint};
use tetrad::error::CheckpointError;
use tetrad::model::Ensemble;

/// One of the two modules of an adapter that has learned several tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Expert {
    /// The module that learned the last task.
    Online,
    /// The module that accumulated what was learned.
    Offline,
}

impl Expert {
    /// A model by this expert alone, if one was asked for; else by both as the adapter's file says.
    ///
    /// # Errors
    /// If no adapter has two.
    pub(super) fn choose(asked: Option<Self>, model: Adapted<'_>) -> Result<Adapted<'_>, Failure> {
        let Some(expert) = asked else { return Ok(model) };
        if model.ensemble().is_none() {
            return Err("--expert: only an adapter that has learned a second task (tetrad continual) has two".into());
        }
        Ok(model.with_ensemble(match expert {
            Self::Online => Ensemble::Online,
            Self::Offline => Ensemble::Offline,
        }))
    }

    /// An adapter, or the module of it that was asked for.
    ///
    /// # Errors
    /// A file that is no adapter; one with two modules if none was asked for.
    pub(super) fn read(asked: Option<Self>, file: &Checkpoint) -> Result<Adapter, CheckpointError> {
        match asked {
            None => Adapter::of(file),
            Some(expert) => Adapter::of_module(file, expert == Self::Offline),
        }
    }
}

/// Opens the adapters that were named, each with its scale, and checks their contents.
///
/// # Errors
/// A scale that is no number, a file that cannot be used.
pub(super) fn open(arguments: &[String]) -> Result<Vec<(Checkpoint, f32)>, Failure> {
    arguments.iter().map(|argument| open_one(argument)).collect()
}

fn open_one(argument: &str) -> Result<(Checkpoint, f32), Failure> {
    let (file, scale) = split(argument, Path::new(argument).exists())?;
    Ok((Checkpoint::open_sound(&finished_adapter(Path::new(file)))?, scale))
}

/// File and scale; the name of a file that exists has no scale in it.
fn split(argument: &str, exists: bool) -> Result<(&str, f32), String> {
    let Some((file, scale)) = argument.rsplit_once('=').filter(|_| !exists) else { return Ok((argument, 1.0)) };
    match scale.parse::<f32>() {
        Ok(number) if number.is_finite() && number.abs() <= 1e6 => Ok((file, number)),
        _ => Err(format!("--adapter {argument}: {scale:?} after = must be a number of at most 1e6, such as 0.5")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_follows_the_file() {
        assert_eq!(split("a.tetrad", false), Ok(("a.tetrad", 1.0)));
        assert_eq!(split("a=b.tetrad=-0.5", false), Ok(("a=b.tetrad", -0.5)));
        assert_eq!(split("a=1", true), Ok(("a=1", 1.0)));
        for wrong in ["a.tetrad=x", "a.tetrad=", "a.tetrad=inf", "a.tetrad=nan"] {
            assert!(split(wrong, false).is_err(), "{wrong}");
        }
    }
}
