//! Trains what is missing, each run as a process of its own: what ends one does not end the others.

use super::file::{Job, Sweep};
use super::state::{CLAIM, State, States, failed_record, is_open, note_failure, recorded, told};
use crate::cli::Failure;
use crate::cli::output::{escape, print, write_file};
use crate::cli::runs::{ARM, Arm, FAILED, Record, SCORE, Score, read};
use crate::cli::units::duration;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tetrad::error::StoreError;
use tetrad::store::Lock;

/// What a run prints, in its folder.
const LOG: &str = "log.txt";

/// How often running processes are looked at.
const POLL: Duration = Duration::from_millis(50);

/// How runs are trained.
pub(super) struct Options<'a> {
    /// At most this many at once.
    pub jobs: usize,
    /// Processor threads of each, unless the configuration says.
    pub threads: usize,
    pub device: &'a str,
    /// Whether failed runs are tried again.
    pub retry: bool,
    pub stop: &'a AtomicBool,
}

/// What a process is doing for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Train,
    /// Scores the finished weights on the text of this number.
    Score(usize),
}

struct Running {
    job: usize,
    /// Other sweeps leave the run alone: between this one's look at it and its process's own lock, and between its processes.
    lock: Lock,
    task: Task,
    child: Child,
    /// When the run was begun, or gone on with: its scores take their time, too.
    begun: Instant,
}

/// Trains and scores all runs that can be, then those that wait for them.
///
/// # Errors
/// If folders, logs or records cannot be written, or no process can be started.
pub(super) fn execute(sweep: &Sweep, options: &Options<'_>) -> Result<(), Failure> {
    if options.retry {
        forget_failures(sweep)?;
    }
    let mut driver = Driver { sweep, options, running: Vec::new(), tried: BTreeSet::new(), told: false, changed: true };
    driver.catch_up()?;
    loop {
        driver.look()?;
        if options.stop.load(Ordering::SeqCst) {
            driver.stop();
        }
        while !driver.told && driver.changed && driver.running.len() < options.jobs {
            driver.changed = driver.start_next()?;
        }
        if driver.running.is_empty() {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

/// Failed runs of folders are missing again; records of failures stay, and are outdone by later ones.
fn forget_failures(sweep: &Sweep) -> std::io::Result<()> {
    sweep.jobs.iter().try_for_each(forget_failure)
}

fn forget_failure(job: &Job) -> std::io::Result<()> {
    match std::fs::remove_file(job.config.run.dir.join(FAILED)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

struct Driver<'a> {
    sweep: &'a Sweep,
    options: &'a Options<'a>,
    running: Vec<Running>,
    /// Runs that this process has begun: none is begun twice.
    tried: BTreeSet<usize>,
    /// Whether processes were told to stop.
    told: bool,
    /// Whether there may be a run to start that there was not when it was last looked for.
    changed: bool,
}

impl Driver<'_> {
    /// Starts one more run if there is one; `false` if there is none now.
    fn start_next(&mut self) -> Result<bool, Failure> {
        let states = States::of(self.sweep, self.options.retry)?;
        let Some(next) = states.open().into_iter().find(|i| !self.tried.contains(i)) else { return Ok(false) };
        let job = &self.sweep.jobs[next];
        let Some(lock) = self.claim(job)? else { return Ok(true) };
        self.tried.insert(next);
        prepare(job)?;
        let position = format!("{} of {}", next + 1, self.sweep.jobs.len());
        print(|out| writeln!(out, "begin    {} ({position})", job.name()))?;
        self.spawn(next, Task::Train, Instant::now(), lock)?;
        Ok(true)
    }

    /// Keeps other sweeps away from a run; nothing if one has it, or had it since it was looked at.
    fn claim(&self, job: &Job) -> Result<Option<Lock>, Failure> {
        let dir = &job.config.run.dir;
        std::fs::create_dir_all(dir)
            .map_err(|e| format!("{}: cannot be created: {e}", escape(&dir.to_string_lossy())))?;
        let lock = match Lock::acquire(dir.join(CLAIM)) {
            Err(StoreError::Busy { .. }) => return Ok(None),
            lock => lock?,
        };
        Ok(is_open(self.sweep, job, self.options.retry)?.then_some(lock))
    }

    /// Records finished runs that are not recorded: of a sweep that had no records, or that was killed in between.
    fn catch_up(&self) -> Result<(), Failure> {
        let recorded = recorded(self.sweep)?;
        let states = States::of(self.sweep, self.options.retry)?;
        for (job, state) in self.sweep.jobs.iter().zip(&states.0) {
            match state {
                State::Done(record) if !recorded.contains_key(&job.fingerprint) => self.record(record)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn spawn(&mut self, number: usize, task: Task, begun: Instant, lock: Lock) -> Result<(), Failure> {
        let job = &self.sweep.jobs[number];
        let dir = &job.config.run.dir;
        let mut command = Command::new(std::env::current_exe()?);
        match task {
            Task::Train => {
                command.arg("train").arg(dir.join("config.toml")).arg("--resume");
                command.args(self.sweep.start_args());
                if job.config.run.threads == 0 && self.options.threads > 0 {
                    command.args(["--set".into(), format!("run.threads={}", self.options.threads)]);
                }
                command.stdout(log(dir)?);
            }
            Task::Score(text) => {
                let files = self.sweep.scores.values().nth(text).expect("a text of the sweep");
                command.arg("eval");
                match &job.config.adapter.base {
                    Some(base) => command.arg(base).arg("--adapter").arg(job.outcome()),
                    None => command.arg(job.outcome()),
                };
                command.arg("--text").args(files).arg("--json");
                command.args(["--threads".into(), self.options.threads.to_string()]);
                command.arg("--cache").arg(&job.config.data.cache);
                command.stdout(File::create(dir.join(scored(text)))?);
            }
        }
        // A group of its own: the terminal's Ctrl-C goes to this process alone, which passes it on once.
        command.args(["--device", self.options.device]).stdin(Stdio::null()).stderr(log(dir)?).process_group(0);
        let child = command.spawn().map_err(|e| format!("a process for {} cannot be started: {e}", job.name()))?;
        self.running.push(Running { job: number, lock, task, child, begun });
        Ok(())
    }

    /// Takes leave of processes that have ended.
    fn look(&mut self) -> Result<(), Failure> {
        let mut i = 0;
        while i < self.running.len() {
            match self.running[i].child.try_wait()? {
                None => i += 1,
                Some(status) => {
                    let ended = self.running.swap_remove(i);
                    self.changed = true;
                    self.ended(ended, status)?;
                }
            }
        }
        Ok(())
    }

    fn ended(&mut self, ended: Running, status: ExitStatus) -> Result<(), Failure> {
        let job = &self.sweep.jobs[ended.job];
        if !status.success() {
            if self.told {
                return Ok(());
            }
            let reason = reason(&job.config.run.dir, status);
            note_failure(job, &reason)?;
            self.record(&failed_record(job, &reason))?;
            print(|out| writeln!(out, "failed   {}: {reason}", job.name()))?;
            return Ok(());
        }
        let next = match ended.task {
            Task::Train if !job.outcome().exists() => return Ok(()), // stopped, and saved
            Task::Train => 0,
            Task::Score(text) => text + 1,
        };
        if next < self.sweep.scores.len() && !self.told {
            return self.spawn(ended.job, Task::Score(next), ended.begun, ended.lock);
        }
        if next == self.sweep.scores.len() {
            gather_scores(self.sweep, job)?;
            let (record, _) = read(&job.config.run.dir)?;
            self.record(&record)?;
            let took = duration(ended.begun.elapsed());
            print(|out| writeln!(out, "done     {}: {} in {took}", job.name(), told(&record)))?;
        }
        Ok(())
    }

    /// Appends to the sweep's records, if it has any; one write, so that no reader sees half of a line.
    fn record(&self, record: &Record) -> Result<(), Failure> {
        let Some(path) = &self.sweep.records else { return Ok(()) };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(line.as_bytes()).map_err(|e| format!("{}: cannot be appended to: {e}", path.display()).into())
    }

    /// Tells every process once to finish its step, save and end.
    fn stop(&mut self) {
        if self.told {
            return;
        }
        self.told = true;
        for running in &self.running {
            let pid = i32::try_from(running.child.id()).ok().and_then(Pid::from_raw);
            // One that ended meanwhile needs no signal.
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        }
    }
}

/// Fills a run's folder with its configuration and its place in the sweep.
fn prepare(job: &Job) -> Result<(), Failure> {
    let dir = &job.config.run.dir;
    write_file(&dir.join("config.toml"), job.config.to_toml().as_bytes())?;
    let arm = Arm { arm: job.arm.clone(), settings: job.settings_json(), start: job.start.clone() };
    write_file(&dir.join(ARM), &serde_json::to_vec(&arm)?)?;
    // What a former process has found is no longer true of this one.
    Ok(forget_failure(job)?)
}

fn log(dir: &Path) -> std::io::Result<Stdio> {
    Ok(OpenOptions::new().create(true).append(true).open(dir.join(LOG))?.into())
}

/// Where a process that scores writes.
fn scored(text: usize) -> String {
    format!("score-{text}.json")
}

/// Puts the losses on other texts into one file.
fn gather_scores(sweep: &Sweep, job: &Job) -> Result<(), Failure> {
    if sweep.scores.is_empty() {
        return Ok(());
    }
    let dir = &job.config.run.dir;
    let mut scores = BTreeMap::new();
    for (i, name) in sweep.scores.keys().enumerate() {
        let path = dir.join(scored(i));
        let found: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let loss = found["loss"].as_f64().ok_or("`tetrad eval` gave no loss")?;
        let tokens = found["tokens"].as_u64().unwrap_or_default();
        scores.insert(name, Score { loss, bits_per_byte: found["bits_per_byte"].as_f64(), tokens });
        std::fs::remove_file(path)?;
    }
    Ok(write_file(&dir.join(SCORE), &serde_json::to_vec(&scores)?)?)
}

/// Why a process failed: what it said last, or how it ended.
pub(super) fn reason(dir: &Path, status: ExitStatus) -> String {
    let log = std::fs::read(dir.join(LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let said = log.rfind("tetrad: ").map(|at| log[at + "tetrad: ".len()..].trim());
    match (status.signal(), said) {
        (Some(signal), _) => format!("ended by signal {signal}"),
        (None, Some(said)) if !said.is_empty() && status.code() == Some(2) => one_line(said),
        _ => match log.lines().rfind(|line| !line.trim().is_empty()) {
            Some(last) => format!("{status}: {}", one_line(last)),
            None => status.to_string(),
        },
    }
}

fn one_line(text: &str) -> String {
    escape(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Threads of each of `jobs` processes, unless there is only one.
pub(super) fn threads(jobs: usize) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    if jobs > 1 { (all / jobs).max(1) } else { 0 }
}
