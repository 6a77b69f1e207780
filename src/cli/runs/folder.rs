//! A run directory as a record.

use super::{Facts, Record, Score, fingerprint_from};
use crate::cli::output::escape;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tetrad::checkpoint::{ADAPTER, METRICS, MODEL};
use tetrad::config::Config;
use tetrad::train::Line;

/// What a sweep leaves in a run directory: the arm; why a run failed; losses on other texts.
pub(crate) const ARM: &str = "arm.json";
pub(crate) const FAILED: &str = "failed.json";
pub(crate) const SCORE: &str = "score.json";

/// Points of a training curve in a record.
const POINTS: usize = 100;

/// Which part of a sweep a run directory is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Arm {
    pub arm: String,
    pub settings: BTreeMap<String, Value>,
    /// Fingerprint of the weights that it starts from, if it starts from some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
}

/// Why a run of a sweep failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub reason: String,
    /// Fingerprint of the configuration that failed.
    pub configuration: String,
}

/// What a run directory tells, and all keys of its configuration as TOML. It may be of an older version, unfinished, or
/// hold nothing but the reason of a failure.
///
/// # Errors
/// If a file in it cannot be read.
pub(crate) fn read(dir: &Path) -> Result<(Record, BTreeMap<String, String>), String> {
    read_with(dir, &lines(dir)?)
}

/// The lines of a run's metrics, none if there are none yet; an incomplete last line of a run that is under way is passed
/// over.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn lines(dir: &Path) -> Result<Vec<Value>, String> {
    Ok(lines_and_faults(dir)?.0)
}

/// The same, with the numbers of the lines that are no JSON, but for an incomplete last one.
///
/// # Errors
/// As [`lines`].
pub(crate) fn lines_and_faults(dir: &Path) -> Result<(Vec<Value>, Vec<usize>), String> {
    let text = text(&dir.join(METRICS))?.unwrap_or_default();
    let (mut lines, mut faults) = (Vec::new(), Vec::new());
    for (i, line) in text.split_inclusive('\n').enumerate() {
        match serde_json::from_str(line) {
            Ok(value) => lines.push(value),
            Err(_) if line.ends_with('\n') => faults.push(i + 1),
            Err(_) => {}
        }
    }
    Ok((lines, faults))
}

/// The same as [`read`], with the lines of its metrics.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_with(dir: &Path, lines: &[Value]) -> Result<(Record, BTreeMap<String, String>), String> {
    let keys = keys(dir)?;
    let path = dir.join("config.toml");
    // A configuration of an older version may have keys that this one refuses; what can be told without it is told.
    let config = Config::load(Some(&path.to_string_lossy()), &[]);
    let mut facts = config.map_or_else(|_| Facts::of_keys(&keys), |config| Facts::of(&config));
    let arm: Arm = json(&dir.join(ARM))?.unwrap_or_default();
    facts.configuration = fingerprint_from(facts.configuration, arm.start.as_deref());
    let failed: Option<Failed> = json(&dir.join(FAILED))?;
    let scores: Option<BTreeMap<String, Score>> = json(&dir.join(SCORE))?;
    let mut record = Record {
        run: dir.to_string_lossy().into_owned(),
        arm: arm.arm,
        settings: arm.settings,
        facts,
        failed: failed.map(|failed| failed.reason),
        scores: scores.unwrap_or_default(),
        program: env!("CARGO_PKG_VERSION").into(),
        ..Record::default()
    };
    take_metrics(&mut record, lines);
    record.finished = record.failed.is_none()
        && record.steps_done > 0
        && ([MODEL, ADAPTER].iter().any(|name| dir.join(name).is_file()) || record.steps_done == record.facts.steps);
    Ok((record, keys))
}

/// A file's text; nothing if there is no such file.
fn text(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: cannot be read: {error}", escape(&path.to_string_lossy()))),
    }
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let parse = |text: String| {
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}; delete it", escape(&path.to_string_lossy())))
    };
    text(path)?.map(parse).transpose()
}

/// Every key of the run's configuration with its value as TOML.
fn keys(dir: &Path) -> Result<BTreeMap<String, String>, String> {
    let tables: toml::Table = text(&dir.join("config.toml"))?.and_then(|text| text.parse().ok()).unwrap_or_default();
    let mut keys = BTreeMap::new();
    for (table, entries) in &tables {
        for (key, value) in entries.as_table().into_iter().flatten() {
            keys.insert(format!("{table}.{key}"), value.to_string());
        }
    }
    Ok(keys)
}

/// Takes what the metrics say.
fn take_metrics(record: &mut Record, lines: &[Value]) {
    let mut training = Vec::new();
    // Without a configuration the highest rate is the peak, as far as the run has come: the first ones warm up.
    let rates = lines.iter().filter_map(|line| line["lr"].as_f64());
    record.facts.lr = record.facts.lr.or(rates.reduce(f64::max));
    for line in lines {
        let Some(step) = line["step"].as_u64() else { continue };
        record.steps_done = record.steps_done.max(step);
        if let Some(loss) = line["loss"].as_f64() {
            training.push((step as f64, loss));
        }
        if let Some(speed) = line["tokens_per_s"].as_f64().filter(|speed| *speed > 0.0) {
            record.seconds += record.facts.tokens_per_step as f64 / speed;
        }
        if let Some(loss) = line["val_loss"].as_f64() {
            record.validation.push((step, loss));
            record.bits_per_byte = line["val_bits_per_byte"].as_f64();
        }
    }
    // Four digits of a mean of steps are more than their noise leaves, and a record is to be small.
    let round = |(step, loss): (f64, f64)| (step.round(), (loss * 1e4).round() / 1e4);
    record.training = means(&training, POINTS).into_iter().map(round).collect();
    let is_late = |step: u64| 10 * step > 9 * record.steps_done;
    let late: Vec<&Value> = lines.iter().filter(|line| line["step"].as_u64().is_some_and(is_late)).collect();
    for name in Line::CODES {
        let found: Vec<f64> = late.iter().filter_map(|line| line[name].as_f64()).collect();
        if !found.is_empty() {
            record.audit.insert(name.into(), found.iter().sum::<f64>() / found.len() as f64);
        }
    }
    // Against the first audit of all, whatever the model's width makes of a scale.
    let first = lines.iter().find_map(|line| line["median_scale"].as_f64());
    if let (Some(first), Some(scale)) = (first, record.audit.remove("median_scale")) {
        record.audit.insert("scale_against_start".into(), scale / first);
    }
}

/// Means of at most `most` equally long spans.
fn means(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        (chunk.iter().map(|p| p.0).sum::<f64>() / n, chunk.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(points.len().div_ceil(most).max(1)).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        dir
    }

    const LINES: &str = "{\"step\":1,\"loss\":5.5,\"lr\":1e-4,\"tokens_per_s\":1024.0,\"median_scale\":0.01}\n\
                         {\"step\":2,\"loss\":5.0,\"lr\":4e-4,\"tokens_per_s\":2048.0,\"median_scale\":0.02,\"moved_bytes\":0.5}\n\
                         {\"step\":2,\"val_loss\":4.5,\"val_bits_per_byte\":6.0}\n{\"step\":3,\"lo";

    #[test]
    fn a_run_directory_tells_its_curves_and_its_end() {
        let mut config = Config::default();
        config.train.steps = 2;
        let dir =
            folder(&[(METRICS, LINES), ("config.toml", &config.to_toml()), (ARM, r#"{"arm":"a","settings":{}}"#)]);
        let (record, keys) = read(dir.path()).unwrap();
        assert_eq!((record.arm.as_str(), record.finished, record.steps_done), ("a", true, 2));
        assert_eq!((record.final_loss(), record.bits_per_byte, record.seconds), (Some(4.5), Some(6.0), 3.0));
        assert_eq!(record.training, [(1.0, 5.5), (2.0, 5.0)]);
        assert_eq!(record.audit["scale_against_start"], 2.0);
        assert_eq!((record.audit["moved_bytes"], record.facts.lr), (0.5, Some(4e-3)));
        assert_eq!(keys["train.schedule"], "\"cosine\"");
        std::fs::write(dir.path().join(FAILED), r#"{"reason":"it burnt","configuration":""}"#).unwrap();
        let (record, _) = read(dir.path()).unwrap();
        assert_eq!((record.finished, record.failed.as_deref()), (false, Some("it burnt")));
    }

    #[test]
    fn a_line_that_is_no_json_is_told_and_an_incomplete_last_one_is_not() {
        let dir = folder(&[(METRICS, &format!("{{\"step\":1,\"loss\":NaN}}\n{LINES}"))]);
        let (lines, faults) = lines_and_faults(dir.path()).unwrap();
        assert_eq!((lines.len(), faults), (3, vec![1]));
    }

    #[test]
    fn a_run_of_an_older_version_tells_what_it_can() {
        let old = "[run]\nseed = 2\ngradient = \"layer\"\n[train]\nsteps = 2\nbatch = 16\nsequence = 128\n";
        let dir = folder(&[(METRICS, LINES), ("config.toml", old)]);
        let (record, keys) = read(dir.path()).unwrap();
        assert_eq!((record.facts.seed, record.final_loss(), record.facts.parameters), (2, Some(4.5), None));
        assert_eq!((record.facts.lr, keys["run.gradient"].as_str()), (Some(4e-4), "\"layer\""), "the peak");
        let bare = folder(&[(METRICS, LINES)]);
        assert_eq!(read(bare.path()).unwrap().0.validation, [(2, 4.5)]);
    }
}
