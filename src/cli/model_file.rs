//! Models on the command line: files, or folders of runs in their place.

use super::misnamed::{self, PathKind};
use super::output::shell;
use clap::builder::{PathBufValueParser, TypedValueParser};
use std::path::{Path, PathBuf};
use tetrad::checkpoint::{ADAPTER, Checkpoint, MODEL, latest};
use tetrad::config::{Config, RECORD};

/// The file of a model: the one that is named, or the finished weights in the folder of a run.
pub(super) fn model_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(|path| finished_model(&path))
}

/// The file of a model or of an adapter, for commands that take both.
pub(super) fn any_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(|path| finished(&path, &[MODEL, ADAPTER]))
}

/// [`model_file`], for paths that are named elsewhere than on the command line.
pub(super) fn finished_model(path: &Path) -> PathBuf {
    finished(path, &[MODEL])
}

/// The file of an adapter. A folder with a model stands for it: what refuses that says that it is no adapter.
pub(super) fn finished_adapter(path: &Path) -> PathBuf {
    finished(path, &[ADAPTER, MODEL])
}

/// The first of these that the folder of a run holds; a path that is none stands for itself.
fn finished(path: &Path, names: &[&str]) -> PathBuf {
    names.iter().map(|name| path.join(name)).find(|file| file.is_file()).unwrap_or_else(|| path.into())
}

/// What to name in place of a folder that cannot stand for the model which is asked for, if it was asked for certainly or the
/// folder holds one.
pub(super) fn advice(folder: &Path, certainly: bool) -> Option<String> {
    if !folder.is_dir() {
        return None;
    }
    if folder.join(ADAPTER).is_file() {
        return Some(format!("this is an adapter's run; {}", beside(folder, folder)));
    }
    if let Ok(Some(newest)) = latest(folder) {
        return Some(unfinished(folder, &newest));
    }
    match misnamed::kind(folder) {
        Some(PathKind::Source) => Some(format!(
            "it is a model of another program; `tetrad import {} -o model.tetrad` converts it",
            shell(folder)
        )),
        _ => certainly.then(|| "name a model's file, or the folder of a finished run".into()),
    }
}

/// What stands for a run that is not finished: its newest checkpoint.
fn unfinished(folder: &Path, newest: &Path) -> String {
    let Ok(Checkpoint { meta, .. }) = Checkpoint::open(newest) else {
        return format!("this run is not finished, and {} is damaged; name another checkpoint", shell(newest));
    };
    let (step, steps) = (meta.counters.step, meta.train.steps);
    match meta.adapter {
        None => format!("this run is at step {step} of {steps}; name a checkpoint: {}", shell(newest)),
        Some(_) => format!("this adapter's run is at step {step} of {steps}; {}", beside(folder, newest)),
    }
}

/// The words for an adapter beside the base that its run names.
fn beside(folder: &Path, adapter: &Path) -> String {
    let config = Config::load(Some(&folder.join(RECORD).to_string_lossy()), &[]).ok();
    let base = config.and_then(|config| config.adapter.base).map_or_else(|| "its model".into(), |base| shell(&base));
    format!("name {base} and --adapter {}", shell(adapter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_finished_weights_stands_for_them() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(finished_model(run.path()), run.path());
        let adapter = run.path().join(ADAPTER);
        std::fs::write(&adapter, "").unwrap();
        assert_eq!((finished_model(run.path()), finished_adapter(run.path())), (run.path().into(), adapter.clone()));
        assert_eq!(finished(run.path(), &[MODEL, ADAPTER]), adapter);
        let weights = run.path().join(MODEL);
        std::fs::write(&weights, "").unwrap();
        assert_eq!(finished_model(run.path()), weights);
        assert_eq!(finished_model(&weights), weights);
    }

    #[test]
    fn a_folder_that_is_no_run_says_what_is_needed() {
        let place = tempfile::tempdir().unwrap();
        let told = |certainly| advice(place.path(), certainly);
        assert_eq!(
            (told(false), told(true).unwrap().as_str()),
            (None, "name a model's file, or the folder of a finished run")
        );
        assert_eq!(advice(&place.path().join("none"), true), None);
        std::fs::write(place.path().join("config.json"), "{}").unwrap();
        assert!(told(false).unwrap().contains("`tetrad import "));
    }
}
