//! How long a sweep will take, from measured speed.

use super::execute::reason;
use super::file::{Job, Sweep};
use super::state::{State, States};
use crate::cli::Failure;
use crate::cli::runs::{self, Record, read};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use tetrad::config::{Config, TrainConfig};
use tetrad::optim::Schedule;

/// Steps that are trained to measure speed; the first of them are slower than the rest.
const STEPS: u64 = 6;
const SLOW: usize = 2;

/// What one run costs, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    step: f64,
    validation: f64,
}

impl Cost {
    /// The rest of a run of which some steps are done.
    fn rest(&self, config: &Config, done: u64) -> f64 {
        let train = &config.train;
        let left = train.steps.saturating_sub(done) as f64;
        let validations = match train.eval_every {
            0 => 1.0,
            every => (train.steps / every - done / every + u64::from(!train.steps.is_multiple_of(every))) as f64,
        };
        left * self.step + validations * self.validation
    }
}

/// The estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Estimate {
    pub runs: usize,
    /// Time of all runs one after the other, each with the threads of a job, in seconds.
    pub seconds: f64,
    /// How many kinds of runs were trained for a few steps to measure them.
    pub measured: usize,
}

/// Estimates what is left of a sweep. Speeds are those of runs of the same kind that were trained with as many threads;
/// of a kind without any a few steps are trained in a temporary folder.
///
/// # Errors
/// If a run directory cannot be read, or the few steps fail.
pub(super) fn estimate(sweep: &Sweep, states: &States, threads: usize, device: &str) -> Result<Estimate, Failure> {
    let mut known: BTreeMap<String, Cost> = BTreeMap::new();
    for (job, state) in sweep.jobs.iter().zip(&states.0) {
        if let State::Done(record) | State::Begun(record) = state {
            let found = Config::load(Some(&job.config.run.dir.join("config.toml").to_string_lossy()), &[]);
            if found.is_ok_and(|found| threads_of(&job.config, threads) == found.run.threads) {
                known.entry(kind(&job.config)).or_insert(of_run(&job.config.run.dir, record)?);
            }
        }
    }
    let mut estimate = Estimate::default();
    for i in states.open().into_iter().chain(states.later(sweep)) {
        let job = &sweep.jobs[i];
        let kind = kind(&job.config);
        let cost = match known.get(&kind) {
            Some(cost) => *cost,
            None => {
                estimate.measured += 1;
                eprintln!("measuring {}: a few steps and one validation", job.name());
                *known.entry(kind).or_insert(measure(sweep, job, threads, device)?)
            }
        };
        let done = if let State::Begun(record) = &states.0[i] { record.steps_done } else { 0 };
        estimate.seconds += cost.rest(&job.config, done);
        estimate.runs += 1;
    }
    Ok(estimate)
}

/// What decides the speed of a run: all but its seed, rate and length.
fn kind(config: &Config) -> String {
    let mut config = config.clone();
    let plain = TrainConfig::default();
    config.optimizer.lr = 1e-3;
    (config.run.seed, config.run.dir) = (0, "runs".into());
    (config.train.steps, config.train.warmup, config.train.eval_every) = (plain.steps, 0, 0);
    (config.train.schedule, config.train.final_lr) = (Schedule::Constant, 0.0);
    (config.train.decay_steps, config.train.decay_share) = (plain.decay_steps, plain.decay_share);
    config.to_toml()
}

/// The threads that a run is told to use.
fn threads_of(config: &Config, threads: usize) -> usize {
    if config.run.threads == 0 { threads } else { config.run.threads }
}

/// From the metrics of a run.
fn of_run(dir: &Path, record: &Record) -> Result<Cost, Failure> {
    let lines = runs::lines(dir).unwrap_or_default();
    let median = |name: &str, skipped: usize| {
        let mut all: Vec<f64> = lines.iter().filter_map(|line| line[name].as_f64()).skip(skipped).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    let speed =
        median("tokens_per_s", SLOW).ok_or_else(|| format!("{}: has no speed in its metrics", dir.display()))?;
    let step = record.facts.tokens_per_step as f64 / speed;
    // A version that did not write the time of validations: forward alone takes about a third of a step.
    Ok(Cost { step, validation: median("val_seconds", 0).unwrap_or(0.0) })
}

/// Trains a few steps in a folder that is removed afterwards.
fn measure(sweep: &Sweep, job: &Job, threads: usize, device: &str) -> Result<Cost, Failure> {
    let folder = tempfile::tempdir()?;
    let mut config = job.config.clone();
    config.run.dir = folder.path().join("run");
    config.run.threads = threads_of(&config, threads);
    config.train = TrainConfig {
        steps: STEPS,
        warmup: 0,
        schedule: Schedule::Constant,
        eval_every: 0,
        checkpoint_every: 0,
        sample_every: 0,
        sample_tokens: 0,
        decay_steps: 0,
        decay_share: TrainConfig::default().decay_share,
        ..config.train
    };
    std::fs::create_dir_all(&config.run.dir)?;
    let path = folder.path().join("config.toml");
    std::fs::write(&path, config.to_toml())?;
    let log = config.run.dir.join("log.txt");
    let status = Command::new(std::env::current_exe()?)
        .arg("train")
        .arg(&path)
        .args(sweep.start_args())
        .args(["--device", device])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log)?)
        .status()?;
    if !status.success() {
        return Err(format!("{} cannot be measured: {}", job.name(), reason(&config.run.dir, status)).into());
    }
    let (record, _) = read(&config.run.dir)?;
    of_run(&config.run.dir, &record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_run_has_its_steps_and_its_validations() {
        let cost = Cost { step: 0.5, validation: 10.0 };
        let mut config = Config::default();
        (config.train.steps, config.train.eval_every) = (100, 40);
        assert_eq!(cost.rest(&config, 0), 50.0 + 30.0, "after 40, 80 and 100 steps");
        assert_eq!(cost.rest(&config, 80), 10.0 + 10.0);
        config.train.eval_every = 50;
        assert_eq!(cost.rest(&config, 0), 50.0 + 20.0);
        config.train.eval_every = 0;
        assert_eq!(cost.rest(&config, 99), 0.5 + 10.0);
    }

    #[test]
    fn a_kind_is_what_takes_the_same_time() {
        let config = Config::default();
        let same = |edit: &dyn Fn(&mut Config)| {
            let mut other = config.clone();
            edit(&mut other);
            kind(&other) == kind(&config)
        };
        assert!(same(&|c| (c.optimizer.lr, c.run.seed, c.train.steps) = (1e-4, 9, 5)));
        assert!(!same(&|c| c.train.batch = 3) && !same(&|c| c.model.layers = 1));
    }
}
