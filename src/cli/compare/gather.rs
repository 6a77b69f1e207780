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

/// What was found below some paths.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// All runs, each once.
    pub entries: Vec<Entry>,
    /// What was passed over, and why.
    pub notes: Vec<String>,
    /// Why their losses may not be of one kind.
    pub warnings: Vec<String>,
}

/// All runs below the given paths.
///
/// # Errors
/// If a path holds no run, or something in it cannot be read.
pub(super) fn gather(paths: &[PathBuf]) -> Result<Gathered, String> {
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
    let warnings = measured_otherwise(&found).into_iter().collect();
    Ok(Gathered { entries: label(found), notes, warnings })
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

/// A warning if runs are validated on other texts or in other tokens, as far as their configurations are known.
fn measured_otherwise(found: &[Found]) -> Option<String> {
    let of = |keys: &BTreeMap<String, String>| {
        let get = |key: &str| keys.get(key).cloned().unwrap_or_default();
        let text = match get("data.validation").as_str() {
            "" | "[]" => ["data.train", "data.source", "data.validation_fraction"].map(get).to_vec(),
            _ => vec![get("data.validation")],
        };
        (text, ["tokenizer.file", "model.vocab"].map(get))
    };
    let known = || found.iter().map(|(_, keys)| keys).filter(|keys| !keys.is_empty());
    let (texts, tokens): (BTreeSet<_>, BTreeSet<_>) = known().map(of).unzip();
    let what = match (texts.len() > 1, tokens.len() > 1) {
        (true, true) => "other texts and in other tokens",
        (true, false) => "other texts",
        (false, true) => "one text in other tokens",
        (false, false) => return None,
    };
    Some(format!(
        "the runs are validated on {what}: differences of their losses say nothing; measure their weights on one text with \
         `tetrad eval`, and compare bits per byte"
    ))
}

/// Keys in which runs of one arm may differ.
const IGNORED: [&str; 14] = [
    "optimizer.lr",
    "run.seed",
    "run.dir",
    "run.threads",
    "data.cache",
    "train.micro_batch",
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
    // Where it is said by the number of steps alone, a share of them as usual, that says enough.
    let pairs: BTreeSet<_> = plain().map(|(_, keys)| [keys.get("train.steps"), keys.get("train.warmup")]).collect();
    let steps: BTreeSet<_> = pairs.iter().map(|[steps, _]| steps).collect();
    differing.retain(|key| key.as_str() != "train.warmup" || pairs.len() > steps.len());
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
    fn losses_of_other_texts_and_tokens_are_warned_of() {
        let of = |keys: [&[(&str, &str)]; 2]| measured_otherwise(&keys.map(|keys| run("", &[], keys)));
        let text = ("data.validation", "[\"a\"]");
        assert_eq!(of([&[text, ("data.train", "[\"b\"]")], &[text, ("data.train", "[\"c\"]")]]), None);
        assert_eq!(of([&[], &[text]]), None, "of records nothing is known");
        assert!(of([&[text], &[("data.train", "[\"a\"]")]]).unwrap().contains("on other texts:"));
        assert!(of([&[text], &[text, ("model.vocab", "512")]]).unwrap().contains("on one text in other tokens:"));
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
        let lengths = |keys: [[(&str, &str); 2]; 2]| label(keys.map(|keys| run("", &[], &keys)).into());
        let names = |found: Vec<Entry>| found.into_iter().map(|entry| entry.arm).collect::<Vec<_>>();
        let [ten, twenty, early] = [("10", "1"), ("20", "2"), ("20", "0")]
            .map(|(steps, warmup)| [("train.steps", steps), ("train.warmup", warmup)]);
        assert_eq!(names(lengths([ten, twenty])), ["steps=10", "steps=20"]);
        assert_eq!(names(lengths([twenty, early])), ["warmup=2", "warmup=0"]);
        let alone = label(vec![run("", &[], &[("storage.weights", "\"f32\"")])]);
        assert_eq!(alone[0].arm, "runs");
    }
}
