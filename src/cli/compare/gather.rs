//! The runs that are compared, and the arms that they are of.

use crate::cli::output::escape;
use crate::cli::runs::{Record, find, read, records};
use crate::cli::sweep::Sweep;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tetrad::checkpoint::METRICS;

/// A run, and the arm that it is compared as.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub record: Record,
    /// The arm's name; of runs that are of no sweep, in what their configurations differ.
    pub arm: String,
    /// What else was varied, but for rate and seed.
    pub rest: String,
}

/// A run and the keys of its configuration.
type Found = (Record, BTreeMap<String, String>);

/// All runs below the given paths, each once, and notes on what was passed over.
///
/// # Errors
/// If a path holds no run, or something in it cannot be read.
pub(super) fn gather(paths: &[PathBuf]) -> Result<(Vec<Entry>, Vec<String>), String> {
    let (mut found, mut notes) = (Vec::<Found>::new(), Vec::new());
    for path in paths {
        let noted = notes.len();
        let some = runs(path, &mut notes)?;
        if some.is_empty() && notes.len() == noted {
            let path = escape(&path.to_string_lossy());
            return Err(format!(
                "{path}: holds no run; name a run directory, a folder of them, a sweep or its records"
            ));
        }
        found.extend(some);
    }
    let mut seen = BTreeSet::new();
    // A run and its record are the same run; the first is taken.
    found.retain(|(record, _)| {
        let known = &record.facts.configuration;
        let twice = !known.is_empty() && !seen.insert((known.clone(), record.arm.clone()));
        if twice && record.failed.is_none() {
            notes.push(format!("{}: the same configuration was found before, and is compared once", record.run));
        }
        !twice
    });
    Ok((label(found), notes))
}

/// The runs that one path names; what is passed over is noted.
fn runs(path: &Path, notes: &mut Vec<String>) -> Result<Vec<Found>, String> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension {
        _ if path.is_dir() => find(path)?.iter().map(|dir| read(dir)).collect(),
        _ if path.file_name().is_some_and(|name| name == METRICS) => {
            Ok(vec![read(path.parent().unwrap_or(Path::new(".")))?])
        }
        "jsonl" => Ok(records(path)?.into_iter().map(|record| (record, BTreeMap::new())).collect()),
        "toml" => of_sweep(&Sweep::open(path)?, notes),
        _ => Err(format!(
            "{}: neither a folder nor a sweep (.toml) nor records (.jsonl)",
            escape(&path.to_string_lossy())
        )),
    }
}

/// The records of a sweep, and its runs that are not recorded; folders of other runs are noted.
fn of_sweep(sweep: &Sweep, notes: &mut Vec<String>) -> Result<Vec<Found>, String> {
    let mut found: Vec<Found> = Vec::new();
    if let Some(path) = sweep.records.as_ref().filter(|path| path.exists()) {
        let of_sweep = |record: &Record| {
            sweep.jobs.iter().any(|job| job.arm == record.arm && job.fingerprint == record.facts.configuration)
        };
        // The newest record of a run counts.
        let mut known = BTreeMap::new();
        for record in records(path)?.into_iter().filter(of_sweep) {
            known.insert(record.facts.configuration.clone(), record);
        }
        found.extend(known.into_values().map(|record| (record, BTreeMap::new())));
    }
    for job in sweep.jobs.iter().filter(|job| job.config.run.dir.exists()) {
        if !found.iter().any(|(record, _)| record.facts.configuration == job.fingerprint && record.failed.is_none()) {
            let (record, keys) = read(&job.config.run.dir)?;
            let told = job.config.run.dir.join("config.toml").exists();
            if !told || record.facts.configuration == job.fingerprint {
                found.push((record, keys));
            } else {
                let why = "holds a run of another configuration than the sweep's";
                notes.push(format!(
                    "{}: {why}; move it away, and train the sweep's run with `tetrad sweep`",
                    record.run
                ));
            }
        }
    }
    Ok(found)
}

/// Keys in which runs of one arm may differ.
const IGNORED: [&str; 15] = [
    "optimizer.lr",
    "run.seed",
    "run.dir",
    "run.threads",
    "data.cache",
    "train.micro_batch",
    "train.warmup",
    "train.checkpoint_every",
    "train.eval_every",
    "train.keep",
    "train.milestone_every",
    "train.sample_every",
    "train.sample_prompt",
    "train.sample_tokens",
    "train.audit_every",
];

/// Names arms: as the sweep did, or by the settings in which configurations differ.
fn label(found: Vec<Found>) -> Vec<Entry> {
    let plain = || found.iter().filter(|(record, keys)| record.arm.is_empty() && !keys.is_empty());
    let mut differing: BTreeSet<&String> = plain().flat_map(|(_, keys)| keys.keys()).collect();
    differing.retain(|key| {
        let values: BTreeSet<Option<&String>> = plain().map(|(_, keys)| keys.get(*key)).collect();
        !IGNORED.contains(&key.as_str()) && values.len() > 1
    });
    let describe = |keys: &BTreeMap<String, String>| {
        let parts = differing.iter().map(|key| {
            let value = keys.get(*key).map_or("default", |value| value.trim_matches('"'));
            format!("{}={value}", key.rsplit('.').next().unwrap_or(key))
        });
        parts.collect::<Vec<_>>().join(" ")
    };
    let labels: Vec<(String, String)> = found
        .iter()
        .map(|(record, keys)| {
            let arm = match (record.arm.is_empty(), differing.is_empty() || keys.is_empty()) {
                (false, _) => record.arm.clone(),
                (true, true) => "runs".into(),
                (true, false) => describe(keys),
            };
            let rest = record.settings.iter().filter(|(key, _)| *key != "optimizer.lr");
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
            let rest = rest.map(|(key, value)| format!("{}={}", key.rsplit('.').next().unwrap_or(key), text(value)));
            (arm, rest.collect::<Vec<_>>().join(" "))
        })
        .collect();
    let entry = |((record, _), (arm, rest)): (Found, (String, String))| Entry { record, arm, rest };
    found.into_iter().zip(labels).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arm: &str, settings: &[(&str, Value)], keys: &[(&str, &str)]) -> Found {
        let settings = settings.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
        let keys = keys.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        (Record { arm: arm.into(), settings, ..Record::default() }, keys)
    }

    #[test]
    fn arms_are_named_by_the_sweep_or_by_what_differs() {
        let found = vec![
            run("packed", &[("optimizer.lr", 0.1.into()), ("train.steps", 40.into())], &[]),
            run("", &[], &[("storage.weights", "\"f32\""), ("optimizer.lr", "0.1"), ("run.dir", "\"a\"")]),
            run("", &[], &[("storage.weights", "\"int4\""), ("storage.group", "32"), ("run.dir", "\"b\"")]),
        ];
        let found = label(found);
        let names: Vec<_> = found.iter().map(|entry| (entry.arm.as_str(), entry.rest.as_str())).collect();
        assert_eq!(names, [("packed", "steps=40"), ("group=default weights=f32", ""), ("group=32 weights=int4", "")]);
        let alone = label(vec![run("", &[], &[("storage.weights", "\"f32\"")])]);
        assert_eq!(alone[0].arm, "runs");
    }
}
