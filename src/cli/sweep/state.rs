//! How far each run of a sweep is.

use super::file::{Job, Sweep};
use super::values::text;
use crate::cli::number::short;
use crate::cli::output::write_file;
use crate::cli::runs::{FAILED, Facts, Record, SCORE, read, records};
use crate::cli::table::Table;
use crate::cli::units::duration;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tetrad::error::StoreError;
use tetrad::store::Lock;

/// The lock in a run's folder by which sweeps keep each other away from it.
pub(super) const CLAIM: &str = ".sweep.lock";

/// Where a run stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// Not begun.
    Missing,
    /// Begun, and to be continued.
    Begun(Box<Record>),
    /// Another process is training it.
    Busy,
    /// Finished here, or recorded.
    Done(Box<Record>),
    /// It ended with an error.
    Failed(String),
    /// Not needed before the best value of what is tuned is known, or because it is not the best.
    Waits(&'static str),
    /// The folder holds a run of another configuration.
    Differs,
}

/// The states of all runs of a sweep.
pub(super) struct States(pub Vec<State>);

impl States {
    /// Looks at every run directory, and at the records; with `retry` those of failures do not count.
    ///
    /// # Errors
    /// If a folder or the records cannot be read.
    pub(super) fn of(sweep: &Sweep, retry: bool) -> Result<Self, String> {
        let mut recorded = recorded(sweep)?;
        recorded.retain(|_, record| !retry || record.failed.is_none());
        let states: Result<Vec<_>, _> = sweep.jobs.iter().map(|job| state(sweep, job, &recorded)).collect();
        let mut states = Self(states?);
        states.tune(sweep);
        Ok(states)
    }

    /// Runs that wait for the best of what is tuned, or are not it.
    fn tune(&mut self, sweep: &Sweep) {
        if sweep.tune.is_empty() {
            return;
        }
        let choices = choices(sweep, &self.0);
        for (job, state) in sweep.jobs.iter().zip(&mut self.0) {
            let family = job.family(&sweep.tune);
            let why = match choices.get(&family).unwrap_or(&Choice::Open) {
                _ if job.first || !matches!(state, State::Missing | State::Begun(_)) => continue,
                Choice::Open => "for the first seed's runs",
                Choice::Edge => "the best value is at an end of its range",
                Choice::Best(best) if *best == tuned(sweep, job) => continue,
                Choice::Best(_) => "never: another value is better",
            };
            *state = State::Waits(why);
        }
    }

    /// Numbers of the runs that can be trained now.
    pub(super) fn open(&self) -> Vec<usize> {
        let open = |state: &State| matches!(state, State::Missing | State::Begun(_));
        (0..self.0.len()).filter(|&i| open(&self.0[i])).collect()
    }

    /// Runs that will be trained later: those that wait for the best value, of which one in so many is it.
    pub(super) fn later(&self, sweep: &Sweep) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let waits = |i: &usize| matches!(self.0[*i], State::Waits("for the first seed's runs"));
        (0..self.0.len())
            .filter(waits)
            .filter(|&i| seen.insert((sweep.jobs[i].family(&sweep.tune), sweep.jobs[i].seed)))
            .collect()
    }

    /// One row per run.
    pub(super) fn table(&self, sweep: &Sweep) -> Table {
        let mut table = Table::new(&["arm", "settings", "seed", "state", "loss", "time"], &[2, 4, 5]);
        for (job, state) in sweep.jobs.iter().zip(&self.0) {
            let settings: Vec<_> = job.settings.iter().map(|(key, value)| format!("{key}={}", text(value))).collect();
            let record = match state {
                State::Done(record) | State::Begun(record) => Some(record),
                _ => None,
            };
            let loss = record
                .and_then(|record| record.validation.last())
                .map_or_else(String::new, |(_, loss)| format!("{loss:.4}"));
            let time = record.map_or_else(String::new, |record| duration(Duration::from_secs_f64(record.seconds)));
            table.row([job.arm.clone(), settings.join(" "), job.seed.to_string(), state.word(job), loss, time]);
        }
        table
    }

    /// `3 of 40 runs are done, 1 failed`.
    pub(super) fn summary(&self) -> String {
        let count = |wanted: &dyn Fn(&State) -> bool| self.0.iter().filter(|state| wanted(state)).count();
        let done = count(&|state| matches!(state, State::Done(_)));
        let mut line = format!("{done} of {} runs are done", self.0.len());
        for (number, word) in [
            (count(&|state| matches!(state, State::Failed(_))), "failed"),
            (count(&|state| matches!(state, State::Begun(_))), "begun"),
            (count(&|state| matches!(state, State::Busy)), "under way in another process"),
            (count(&|state| matches!(state, State::Differs)), "in folders with another configuration"),
            (count(&|state| matches!(state, State::Waits(why) if why.starts_with("never"))), "not needed"),
            (count(&|state| matches!(state, State::Waits(why) if !why.starts_with("never"))), "waiting"),
        ] {
            if number > 0 {
                line += &format!(", {number} {word}");
            }
        }
        line
    }
}

impl State {
    fn word(&self, job: &Job) -> String {
        match self {
            Self::Missing => "missing".into(),
            Self::Begun(record) => format!("step {} of {}", record.steps_done, job.config.train.steps),
            Self::Busy => "under way".into(),
            Self::Done(_) => "done".into(),
            Self::Failed(reason) => format!("failed: {reason}"),
            Self::Waits(why) => format!("waits: {why}"),
            Self::Differs => "differs: the folder holds a run of another configuration; move it away".into(),
        }
    }
}

/// The records of a sweep by fingerprint. The newest of a run counts: one that failed may have been repeated.
///
/// # Errors
/// If they cannot be read.
pub(super) fn recorded(sweep: &Sweep) -> Result<BTreeMap<String, Record>, String> {
    let found = match &sweep.records {
        Some(path) if path.exists() => records(path)?,
        _ => Vec::new(),
    };
    Ok(found.into_iter().map(|record| (record.facts.configuration.clone(), record)).collect())
}

/// The state of one run, whatever is tuned.
fn state(sweep: &Sweep, job: &Job, recorded: &BTreeMap<String, Record>) -> Result<State, String> {
    let dir = &job.config.run.dir;
    let busy = || [CLAIM, ".lock"].iter().any(|name| Lock::is_held(dir.join(name)));
    if !recorded.contains_key(&job.fingerprint) && busy() {
        return Ok(State::Busy);
    }
    found(sweep, job, recorded)
}

/// Whether a run that this process has claimed is still to be trained.
///
/// # Errors
/// If its folder or the records cannot be read.
pub(super) fn is_open(sweep: &Sweep, job: &Job, retry: bool) -> Result<bool, String> {
    let mut recorded = recorded(sweep)?;
    recorded.retain(|_, record| !retry || record.failed.is_none());
    Ok(matches!(found(sweep, job, &recorded)?, State::Missing | State::Begun(_)))
}

/// The state of a run that nobody is at.
fn found(sweep: &Sweep, job: &Job, recorded: &BTreeMap<String, Record>) -> Result<State, String> {
    let dir = &job.config.run.dir;
    if let Some(record) = recorded.get(&job.fingerprint) {
        return Ok(match &record.failed {
            Some(reason) => State::Failed(reason.clone()),
            None => State::Done(Box::new(record.clone())),
        });
    }
    let (record, _) = read(dir)?;
    if !dir.join("config.toml").exists() {
        return Ok(record.failed.map_or(State::Missing, State::Failed));
    }
    Ok(match record {
        record if record.facts.configuration != job.fingerprint => State::Differs,
        Record { failed: Some(reason), .. } => State::Failed(reason),
        // The weights are the last thing that a run writes, and scores are what a sweep does with them.
        record if job.outcome().exists() && (sweep.scores.is_empty() || dir.join(SCORE).exists()) => {
            State::Done(Box::new(Record { finished: true, ..record }))
        }
        record => State::Begun(Box::new(record)),
    })
}

/// What is known of the best value.
#[derive(Clone, Debug, PartialEq)]
enum Choice {
    Open,
    /// An end of the tried values, beyond which a better one may lie.
    Edge,
    Best(Vec<String>),
}

/// The values of what is tuned, of one run.
fn tuned(sweep: &Sweep, job: &Job) -> Vec<String> {
    sweep.tune.iter().filter_map(|key| job.settings.get(key)).map(text).collect()
}

/// For each family the best values of what is tuned: those of the lowest final loss of its first seed.
fn choices(sweep: &Sweep, states: &[State]) -> BTreeMap<(String, Vec<(String, String)>), Choice> {
    let mut families: BTreeMap<_, Vec<(&Job, &State)>> = BTreeMap::new();
    for (job, state) in sweep.jobs.iter().zip(states).filter(|(job, _)| job.first) {
        families.entry(job.family(&sweep.tune)).or_default().push((job, state));
    }
    let choose = |runs: Vec<(&Job, &State)>| {
        let settled = |state: &State| matches!(state, State::Done(_) | State::Failed(_));
        if !runs.iter().all(|(_, state)| settled(state)) {
            return Choice::Open;
        }
        let losses = runs.iter().filter_map(|&(job, state)| match state {
            State::Done(record) => record.final_loss().map(|loss| (job, loss)),
            _ => None,
        });
        let Some((best, _)) = losses.min_by(|a, b| a.1.total_cmp(&b.1)) else { return Choice::Edge };
        match sweep.tune.iter().any(|key| at_an_end(key, best, &runs)) {
            true => Choice::Edge,
            false => Choice::Best(tuned(sweep, best)),
        }
    };
    families.into_iter().map(|(family, runs)| (family, choose(runs))).collect()
}

/// Whether the best run's value of a number is the smallest or largest of several. Words have no ends.
fn at_an_end(key: &str, best: &Job, runs: &[(&Job, &State)]) -> bool {
    let number =
        |job: &Job| job.settings.get(key).and_then(|value| value.as_float().or(value.as_integer().map(|i| i as f64)));
    let Some(value) = number(best) else { return false };
    let all: Vec<f64> = runs.iter().filter_map(|(job, _)| number(job)).collect();
    let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    low < high && (value == low || value == high)
}

/// Writes why a run failed into its folder.
///
/// # Errors
/// If it cannot be written.
pub(super) fn note_failure(job: &Job, reason: &str) -> Result<(), StoreError> {
    let failed = crate::cli::runs::Failed { reason: reason.into(), configuration: job.fingerprint.clone() };
    write_file(&job.config.run.dir.join(FAILED), &serde_json::to_vec(&failed).expect("texts are JSON"))
}

/// The record of a run that failed.
pub(super) fn failed_record(job: &Job, reason: &str) -> Record {
    Record {
        run: job.config.run.dir.to_string_lossy().into_owned(),
        arm: job.arm.clone(),
        settings: job.settings_json(),
        facts: Facts { configuration: job.fingerprint.clone(), ..Facts::of(&job.config) },
        failed: Some(reason.into()),
        program: env!("CARGO_PKG_VERSION").into(),
        ..Record::default()
    }
}

/// A loss in a line of progress.
pub(super) fn told(record: &Record) -> String {
    record.final_loss().map_or_else(|| "no validation loss".into(), |loss| format!("validation loss {}", short(loss)))
}
