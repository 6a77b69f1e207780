//! `tetrad continual`.

mod choices;
mod exact;
mod measures;
mod results;
mod score;
mod setup;

use super::output::{escape, print, shell, write_file};
use super::signals::{Doing, Interrupts};
use super::train::stage::{Begin, train_stage};
use super::train::start::InitFrom;
use super::{CliResult, Failure, device, pool};
use score::{Losses, Scores};
use setup::{Held, HeldOut, Setup};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tetrad::checkpoint::{ADAPTER, Adapted, Checkpoint, MODEL, latest};
use tetrad::config::{Config, Method};
use tetrad::error::StoreError;
use tetrad::store::{Lock, create_folder};

/// The file of all results, in the folder of the sequence.
pub(super) const RESULTS: &str = "continual.json";

/// The configuration that a sequence was begun with, in its folder.
const RECORD: &str = "continual.toml";

/// The scores of a run, in its folder.
const SCORES: &str = "scores.json";

/// Learn tasks one after the other, and measure what is kept of each.
///
/// CONFIG is a TOML file with a base (adapter.base), an adapter and a [[continual.task]] for each task;
/// docs/continual.md describes it. After each task all tasks are scored, by the module that learns, by the one that
/// accumulates, and by both together. Every task is a run of its own below run.dir. SIGINT and SIGTERM finish the current
/// step and save.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// TOML file.
    config: String,
    /// Override a key, as in `--set continual.keep=0.9`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// The base, in place of adapter.base.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Go on where the sequence was stopped; begin it if it was not.
    #[arg(long)]
    resume: bool,
    /// Where to compute: auto (a GPU if one can be used), cpu, cuda, cuda:N.
    #[arg(long, value_name = "DEVICE", env = "TETRAD_DEVICE", default_value = "auto")]
    device: device::Device,
}

/// A sequence under way.
struct Sequence<'a> {
    args: &'a Args,
    setup: &'a Setup,
    held: &'a HeldOut,
    interrupts: &'a Interrupts,
}

/// Runs `tetrad continual`.
///
/// # Errors
/// Mistakes in the configuration and the texts; those of the runs.
pub fn run(args: Args) -> CliResult {
    let interrupts = Interrupts::watch()?;
    let setup = Setup::read(&args)?;
    let config = &setup.config;
    check_folder(&args, config)?;
    let Some(held) = setup::texts(config, &interrupts)? else { return stopped(&args) };
    let _lock = record(config)?;
    let sequence = Sequence { args: &args, setup: &setup, held: &held, interrupts: &interrupts };
    let base = sequence.scores_of_base()?;
    let mut scores: BTreeMap<Method, Vec<Scores>> = BTreeMap::new();
    for (method, number) in setup::runs(config) {
        match sequence.learn(method, number)? {
            Some(found) => scores.entry(method).or_default().push(found),
            None => return stopped(&args),
        }
    }
    let results = results::Results::new(config, &base, &scores);
    let path = config.run.dir.join(RESULTS);
    let text = serde_json::to_vec_pretty(&results)?;
    write_file(&path, &text)?;
    print(|out| {
        writeln!(out)?;
        results.print(out)?;
        let (path, dir) = (escape(&path.to_string_lossy()), escape(&config.run.dir.to_string_lossy()));
        writeln!(out, "\nall numbers: {path}    as a page: tetrad report {dir}")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn stopped(args: &Args) -> CliResult {
    let words = |option: &str, value: &str| format!(" {option} {}", shell(Path::new(value)));
    let sets: String = args.sets.iter().map(|set| words("--set", set)).collect();
    let from = args.from.as_ref().map_or_else(String::new, |path| words("--from", &path.to_string_lossy()));
    let config = shell(Path::new(&args.config));
    print(|out| writeln!(out, "stopped; continue with `tetrad continual {config}{sets}{from} --resume`"))?;
    Ok(ExitCode::SUCCESS)
}

/// What decides the results, without what may change between two commands.
fn text_of(config: &Config) -> String {
    let mut config = config.clone();
    config.run.threads = 0;
    config.to_toml()
}

/// Refuses a folder with another sequence, or with one that is to be continued.
fn check_folder(args: &Args, config: &Config) -> Result<(), Failure> {
    let dir = &config.run.dir;
    let Ok(begun) = std::fs::read_to_string(dir.join(RECORD)) else { return Ok(()) };
    let shown = escape(&dir.to_string_lossy());
    let other = "choose another folder with --set run.dir=..., or delete this one";
    if !args.resume {
        return Err(format!("{shown}: holds a sequence of tasks already; continue it with --resume, or {other}").into());
    }
    let now = text_of(config);
    match begun.lines().zip(now.lines()).find(|(before, now)| before != now) {
        None if begun == now => Ok(()),
        None => Err(format!("{shown}: holds a sequence of other tasks; {other}").into()),
        Some((before, now)) => {
            Err(format!("{shown}: was begun with `{}`, not `{}`; {other}", escape(before), escape(now)).into())
        }
    }
}

/// Writes down what is begun, and keeps other processes away from it.
fn record(config: &Config) -> Result<Lock, Failure> {
    let (dir, text) = (&config.run.dir, text_of(config));
    create_folder(dir).map_err(|e| StoreError::io(dir, "create it", e))?;
    let lock = Lock::acquire(dir.join(".lock"))?;
    write_file(&dir.join(RECORD), text.as_bytes())?;
    Ok(lock)
}

impl Sequence<'_> {
    /// The losses of the base alone.
    fn scores_of_base(&self) -> Result<Scores, Failure> {
        let model = &self.setup.base.checkpoint;
        self.scores(&self.setup.config.run.dir.join(SCORES), model, &[])
    }

    /// Trains on a task if that is not done, and scores all tasks; nothing if it was stopped.
    fn learn(&self, method: Method, number: usize) -> Result<Option<Scores>, Failure> {
        let (config, base) = (&self.setup.config, &self.setup.base);
        let run = config.task_run(method, number);
        let name = if method == Method::Full { MODEL } else { ADAPTER };
        let (dir, finished) = (&run.run.dir, run.run.dir.join(name));
        if !finished.is_file() {
            let title = match method {
                Method::Joint => "all tasks at once".to_owned(),
                _ => {
                    format!("task {} of {}, {}", number + 1, self.held.tasks.len(), config.continual.task[number].name)
                }
            };
            print(|out| writeln!(out, "\n=== {}: {title} ===", method.name()))?;
            let before = (number > 0).then(|| config.task_run(method, number - 1).run.dir);
            let open = |path: &Path| InitFrom::open(path);
            let previous = match (before, method) {
                (None, _) => None,
                // With the residue, which the deployed weights lack.
                (Some(dir), Method::Full) => {
                    let shown = escape(&dir.to_string_lossy());
                    let last = latest(&dir)?.ok_or_else(|| format!("{shown}: its last checkpoint is gone"))?;
                    Some(open(&last)?)
                }
                (Some(dir), _) => Some(open(&dir.join(name))?),
            };
            let begin = match method {
                Method::Full => Begin { model: previous.as_ref().unwrap_or(base), adapter: None },
                _ => Begin { model: base, adapter: previous.as_ref() },
            };
            train_stage(&run, begin, self.args.device, self.interrupts)?;
            if !finished.is_file() {
                return Ok(None);
            }
        }
        if self.interrupts.stopped() {
            return Ok(None);
        }
        // What is scored is scored anew by the next command.
        self.interrupts.now(Doing::Nothing);
        let file = Checkpoint::open_sound(&finished)?;
        let path = dir.join(SCORES);
        let found = match method {
            Method::Full => self.scores(&path, &file, &[])?,
            _ => self.scores(&path, &base.checkpoint, &[(file, 1.0)])?,
        };
        Ok(Some(found))
    }

    /// The scores that are kept in a file, or else those that are found now.
    fn scores(&self, path: &Path, model: &Checkpoint, adapters: &[(Checkpoint, f32)]) -> Result<Scores, Failure> {
        if let Some(found) = Scores::read(path, self.held.tasks.len(), self.held.base.is_some()) {
            return Ok(found);
        }
        let adapted = Adapted::new(model, adapters)?.with_ensemble(tetrad::model::Ensemble::Posterior);
        let texts: Vec<&Held> = self.held.tasks.iter().chain(&self.held.base).collect();
        let config = &self.setup.config;
        let sequence = config.train.sequence;
        let scores = pool::run(config.run.threads, || -> Result<Scores, Failure> {
            let mut tasks: Vec<Losses> = score::losses(&adapted, &texts, sequence, self.args.device)?;
            let base = self.held.base.as_ref().and_then(|_| tasks.pop());
            let mut accuracy = Vec::new();
            if self.held.questions.iter().any(Option::is_some) {
                for questions in &self.held.questions {
                    let shape = (config.train.batch, sequence);
                    let found = questions.as_ref().map(|all| all.accuracy(&adapted, shape, self.args.device));
                    accuracy.push(found.transpose()?);
                }
            }
            Ok(Scores { tasks, accuracy, base })
        })??;
        scores.write(path)?;
        Ok(scores)
    }
}
