//! The folder of a run, and what must not be in it before.

use super::Args;
use crate::cli::Failure;
use crate::cli::output::escape;
use std::io::{BufRead, BufReader};
use std::path::Path;
use tetrad::checkpoint::{ADAPTER, BEST, METRICS, MODEL, latest};
use tetrad::config::RECORD;
use tetrad::store::create_folder;
use toml::Table;

/// Makes the folder, if it is not there.
pub(super) fn make_folder(dir: &Path) -> Result<(), Failure> {
    create_folder(dir).map_err(|e| {
        let shown = escape(&dir.to_string_lossy());
        match std::fs::metadata(dir) {
            Ok(found) if !found.is_dir() => format!("{shown}: not a folder; name another with --set run.dir=..."),
            _ => format!("{shown}: cannot be created: {e}; name another folder with --set run.dir=..."),
        }
        .into()
    })
}

/// Refuses to start a run where one is.
pub(super) fn refuse_second_run(args: &Args, dir: &Path) -> Result<(), Failure> {
    match latest(dir)? {
        Some(path) if args.resume.is_none() && !args.overwrite => Err(format!(
            "{}: this folder holds a run already; continue it with --resume, start anew with --overwrite, or choose \
             another folder with --set run.dir=...",
            escape(&path.to_string_lossy())
        )
        .into()),
        _ => Ok(()),
    }
}

/// Refuses to write over files of a run's names that no run wrote: a configuration of the user's own, other notes, a model that was
/// put there.
pub(super) fn refuse_foreign(dir: &Path) -> Result<(), Failure> {
    let [record, metrics] = [RECORD, METRICS].map(|name| dir.join(name));
    let foreign = |path: &Path, what: &str| -> Result<(), Failure> {
        let path = escape(&path.to_string_lossy());
        Err(format!(
            "{path}: {what}, and that of the run would take its place; choose another folder with --set run.dir=..., move the \
             file away, or start anew with --overwrite"
        )
        .into())
    };
    if record.is_file() && !is_record(&record) {
        return foreign(&record, "a configuration that no run wrote");
    }
    if metrics.is_file() && !is_metrics(&metrics) {
        return foreign(&metrics, "not the log of a run");
    }
    if record.exists() || metrics.exists() || latest(dir)?.is_some() {
        return Ok(());
    }
    match [MODEL, ADAPTER, BEST].map(|name| dir.join(name)).iter().find(|path| path.is_file()) {
        Some(path) => foreign(path, "weights that no run here made"),
        None => Ok(()),
    }
}

/// Whether a configuration is one that a run wrote: all of it, and without a word that people write.
fn is_record(path: &Path) -> bool {
    const KEYS: [[&str; 2]; 4] = [["model", "hidden"], ["storage", "weights"], ["optimizer", "lr"], ["train", "steps"]];
    let Ok(text) = std::fs::read_to_string(path) else { return false };
    let Ok(table) = text.parse::<Table>() else { return false };
    let has = |[section, key]: [&str; 2]| table.get(section).and_then(|section| section.get(key)).is_some();
    KEYS.into_iter().all(has) && !text.lines().any(|line| line.trim_start().starts_with('#'))
}

/// Whether a log begins as a run's does; an empty one is that of a run which did nothing.
fn is_metrics(path: &Path) -> bool {
    let Ok(file) = std::fs::File::open(path) else { return false };
    let mut line = Vec::new();
    // No line of a run's is so long.
    let read = BufReader::new(std::io::Read::take(file, 1 << 16)).read_until(b'\n', &mut line);
    let is_step = || serde_json::from_slice::<serde_json::Value>(&line).is_ok_and(|line| line.get("step").is_some());
    read.is_ok() && (line.is_empty() || !line.ends_with(b"\n") || is_step())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrad::config::Config;

    #[test]
    fn only_files_of_runs_are_taken_for_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let refused = || refuse_foreign(dir).map_err(|failure| failure.to_string()).unwrap_err();
        assert!(refuse_foreign(dir).is_ok());
        std::fs::write(dir.join(MODEL), "").unwrap();
        assert!(refused().contains("model.tetrad: weights that no run here made"));
        let record = Config::default().to_toml();
        std::fs::write(dir.join(RECORD), &record).unwrap();
        std::fs::write(dir.join(METRICS), "{\"step\":1}\n").unwrap();
        assert!(refuse_foreign(dir).is_ok());
        for mine in ["[run]\ndir = \"a\"\n".to_owned(), format!("# my notes\n{record}"), "not TOML".into()] {
            std::fs::write(dir.join(RECORD), mine).unwrap();
            assert!(refused().contains("config.toml: a configuration that no run wrote"));
        }
        std::fs::write(dir.join(RECORD), &record).unwrap();
        std::fs::write(dir.join(METRICS), "{\"loss\":1}\n").unwrap();
        assert!(refused().contains("metrics.jsonl: not the log of a run"));
    }
}
