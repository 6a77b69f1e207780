//! The checkpoints of a run directory.

use crate::config::{OnSpike, TrainConfig};
use crate::error::StoreError;
use crate::store;
use std::path::{Path, PathBuf};

/// The finished weights of a run, next to its checkpoints.
pub const MODEL: &str = "model.tetrad";

/// The finished adapter of a run that trains one.
pub const ADAPTER: &str = "adapter.tetrad";

/// The weights of a run's best validation, where `train.keep_best` asks for them.
pub const BEST: &str = "best.tetrad";

/// The metrics of a run ([`Metrics`](crate::train::Metrics)).
pub const METRICS: &str = "metrics.jsonl";

/// `dir/step-XXXXXXXX.tetrad`.
pub fn checkpoint_path(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:08}.tetrad"))
}

/// The checkpoints of a run, oldest first.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let fail = |e| StoreError::io(dir, "list it", e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.strip_prefix("step-").and_then(|name| name.strip_suffix(".tetrad"));
        if let Some(step) = digits.filter(|digits| digits.len() >= 8).and_then(|digits| digits.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The newest checkpoint of a run, if there is one.
///
/// # Errors
/// If the directory exists but cannot be read.
pub fn latest(dir: &Path) -> Result<Option<PathBuf>, StoreError> {
    if !dir.exists() {
        return Ok(None);
    }
    Ok(list(dir)?.pop().map(|(_, path)| path))
}

/// Deletes all but the newest `train.keep` checkpoints; milestones stay, and that to which `train.on_spike` goes back.
///
/// # Errors
/// If a file cannot be deleted.
pub fn prune(dir: &Path, train: &TrainConfig) -> Result<(), StoreError> {
    if train.keep == 0 {
        return Ok(());
    }
    let mut found = list(dir)?;
    let back = scheduled(&found, train).next_back().filter(|_| train.on_spike == OnSpike::Rewind);
    found.truncate(found.len().saturating_sub(train.keep));
    for (step, path) in found {
        let milestone = train.milestone_every > 0 && step > 0 && step.is_multiple_of(train.milestone_every);
        if !milestone && Some(step) != back {
            remove(&path)?;
        }
    }
    Ok(())
}

/// The steps of those checkpoints that are not there because a run was stopped.
fn scheduled(found: &[(u64, PathBuf)], train: &TrainConfig) -> impl DoubleEndedIterator<Item = u64> {
    let every = train.checkpoint_every.max(1);
    found.iter().map(|(step, _)| *step).filter(move |step| step.is_multiple_of(every))
}

/// The finished weights of a run, if there are any: those of a model, or an adapter's.
pub fn finished(dir: &Path) -> Option<PathBuf> {
    [MODEL, ADAPTER].map(|name| dir.join(name)).into_iter().find(|path| path.is_file())
}

/// Gives the finished weights of a run that goes on another name, under which nobody takes them for its end:
/// `model-until-XXXXXXXX.tetrad`, with the step that the run goes on from; the new path.
///
/// # Errors
/// If they cannot be renamed.
pub fn retire_finished(dir: &Path, step: u64) -> Result<Option<PathBuf>, StoreError> {
    let Some(path) = finished(dir) else { return Ok(None) };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let to = dir.join(format!("{stem}{RETIRED}{step:08}.tetrad"));
    store::rename(&path, &to).map_err(|e| StoreError::io(&path, "rename it", e))?;
    Ok(Some(to))
}

/// What the names of retired weights have behind their stem.
const RETIRED: &str = "-until-";

/// The weights in a run's folder that are no checkpoints: finished, retired and best ones.
fn weights(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let fail = |e| StoreError::io(dir, "list it", e);
    let mut found: Vec<_> =
        [MODEL, ADAPTER, BEST].map(|name| dir.join(name)).into_iter().filter(|path| path.exists()).collect();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".tetrad"));
        let retired = name.and_then(|name| name.split_once(RETIRED)).is_some_and(|(stem, step)| {
            let whole = |file: &str| file.strip_suffix(".tetrad") == Some(stem);
            (whole(MODEL) || whole(ADAPTER)) && step.len() >= 8 && step.bytes().all(|digit| digit.is_ascii_digit())
        });
        found.extend(retired.then_some(path));
    }
    Ok(found)
}

/// Deletes every checkpoint of a run, and its finished and best weights, which could be mistaken for those of the next
/// run.
///
/// # Errors
/// If a file cannot be deleted.
pub fn clear(dir: &Path) -> Result<(), StoreError> {
    for (_, path) in list(dir)? {
        remove(&path)?;
    }
    weights(dir)?.iter().try_for_each(|path| remove(path))
}

pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    store::remove(path).map_err(|e| StoreError::io(path, "delete it", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_milestones_stay() {
        let dir = tempfile::tempdir().unwrap();
        for step in [0, 50, 100, 150, 200, 250] {
            std::fs::write(checkpoint_path(dir.path(), step), "x").unwrap();
        }
        std::fs::write(dir.path().join("step-1.tetrad"), "not one of ours").unwrap();
        let train = TrainConfig { keep: 2, milestone_every: 100, ..TrainConfig::default() };
        prune(dir.path(), &train).unwrap();
        let steps: Vec<_> = list(dir.path()).unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [100, 200, 250]);
        assert_eq!(latest(dir.path()).unwrap(), Some(checkpoint_path(dir.path(), 250)));
        assert_eq!(latest(&dir.path().join("none")).unwrap(), None);
    }

    #[test]
    fn finished_weights_of_a_run_that_goes_on_get_another_name_and_are_cleared_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(retire_finished(dir.path(), 100).unwrap(), None);
        for name in [MODEL, BEST, "model-until-then.tetrad", "mine-until-00000100.tetrad", "step-00000100.tetrad"] {
            std::fs::write(at(name), "x").unwrap();
        }
        assert_eq!(finished(dir.path()), Some(at(MODEL)));
        assert_eq!(retire_finished(dir.path(), 100).unwrap(), Some(at("model-until-00000100.tetrad")));
        assert_eq!(finished(dir.path()), None);
        clear(dir.path()).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["mine-until-00000100.tetrad", "model-until-then.tetrad"]);
    }
}
