//! What finished and unfinished runs are remembered by: [`Record`], read from run directories, sweeps and files of
//! records.

mod facts;
mod folder;

pub(super) use facts::{Facts, fingerprint, fingerprint_from};
pub(super) use folder::{ARM, Arm, FAILED, Failed, SCORE, lines, lines_and_faults, read, read_with};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tetrad::checkpoint::METRICS;

/// One run, small enough to be committed: a line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its name: the run directory, or what stands for it in a sweep.
    pub run: String,
    /// The arm of a sweep.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arm: String,
    /// What the sweep varied, but for the seed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Value>,
    /// What it was configured to be.
    #[serde(flatten)]
    pub facts: Facts,
    /// Whether all steps are done.
    pub finished: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Steps done.
    pub steps_done: u64,
    /// Time of its steps, in seconds.
    pub seconds: f64,
    /// Validation loss in nats per token, by steps.
    pub validation: Vec<(u64, f64)>,
    /// Training loss, averaged over spans of steps.
    pub training: Vec<(f64, f64)>,
    /// The last validation loss in bits per byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// Means of the audits of the last tenth of the steps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub audit: BTreeMap<String, f64>,
    /// Losses of the finished weights on other texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, Score>,
    /// The version of the program.
    #[serde(default)]
    pub program: String,
}

/// A loss on a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Score {
    /// Nats per token.
    pub loss: f64,
    /// The same in bits per byte, where the text of the tokens is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// Tokens that were predicted.
    pub tokens: u64,
}

impl Record {
    /// The validation loss after the last step, of a finished run.
    pub(super) fn final_loss(&self) -> Option<f64> {
        let (_, loss) = self.validation.last()?;
        (self.finished && loss.is_finite()).then_some(*loss)
    }

    /// The mean training loss of the last tenth of the steps, of a finished run.
    pub(super) fn late_training_loss(&self) -> Option<f64> {
        let from = 0.9 * self.steps_done as f64;
        let late: Vec<f64> = self.training.iter().filter(|(step, _)| *step > from).map(|(_, loss)| *loss).collect();
        let mean = late.iter().sum::<f64>() / late.len() as f64;
        (self.finished && mean.is_finite()).then_some(mean)
    }
}

/// The records in a file of them.
///
/// # Errors
/// If it cannot be read, or a line is no record.
pub(super) fn records(path: &Path) -> Result<Vec<Record>, String> {
    let shown = super::output::escape(&path.to_string_lossy());
    let text = std::fs::read_to_string(path).map_err(|e| format!("{shown}: cannot be read: {e}"))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let record = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| format!("{shown}, line {number}: not a record of a run: {e}"))
    };
    lines.map(record).collect()
}

/// The run directories in `path`, itself included, in order of their names; links are not followed.
///
/// # Errors
/// If a folder cannot be read.
pub(super) fn find(path: &Path) -> Result<Vec<PathBuf>, String> {
    /// Folders within folders, far more than any sweep makes.
    const DEEPEST: usize = 12;
    fn visit(path: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
        if path.join(METRICS).is_file() || path.join(FAILED).is_file() {
            found.push(path.into());
        }
        if depth == DEEPEST {
            return Ok(());
        }
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                visit(&entry.path(), depth + 1, found)?;
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    visit(path, 0, &mut found)
        .map_err(|e| format!("{}: cannot be read: {e}", super::output::escape(&path.to_string_lossy())))?;
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_line_that_comes_back() {
        let record = Record {
            run: "a".into(),
            settings: [("optimizer.lr".into(), 0.004.into())].into(),
            facts: Facts { seed: 3, lr: Some(0.004), ..Facts::default() },
            finished: true,
            validation: vec![(10, 2.5), (20, 2.25)],
            scores: [("other".into(), Score { loss: 1.5, bits_per_byte: None, tokens: 9 })].into(),
            ..Record::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.jsonl");
        let line = serde_json::to_string(&record).unwrap();
        std::fs::write(&path, format!("{line}\n\n{line}\n")).unwrap();
        assert_eq!(records(&path).unwrap(), [record.clone(), record.clone()]);
        assert_eq!(record.final_loss(), Some(2.25));
        assert_eq!(record.late_training_loss(), None);
        let unfinished = Record { finished: false, ..record.clone() };
        assert_eq!((unfinished.final_loss(), unfinished.late_training_loss()), (None, None));
        let training = vec![(5.0, 4.0), (18.0, 3.0), (18.5, 2.0), (19.5, 1.0)];
        assert_eq!(Record { training, steps_done: 20, ..record }.late_training_loss(), Some(1.5));
        std::fs::write(&path, format!("{line}\n{{\"step\":1}}\n")).unwrap();
        assert!(records(&path).unwrap_err().contains("line 2: not a record of a run"));
    }

    #[test]
    fn runs_are_found_in_folders_of_folders() {
        let dir = tempfile::tempdir().unwrap();
        for run in ["b/lr=1/seed=2", "b/lr=1/seed=1", "a"] {
            let run = dir.path().join(run);
            std::fs::create_dir_all(&run).unwrap();
            std::fs::write(run.join(METRICS), "").unwrap();
        }
        let found = find(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|p| p.strip_prefix(dir.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a", "b/lr=1/seed=1", "b/lr=1/seed=2"]);
        assert!(find(&dir.path().join("none")).is_err());
    }
}
