//! The ranks of a training run: how they join, what they must agree on, and how they end.

use crate::cli::device::Device;
use crate::cli::hint::Options;
use crate::cli::{CliResult, Failure, explained};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tetrad::checkpoint::contribute;
use tetrad::config::{Config, OnSpike, RunConfig};
use tetrad::data::{DataConfig, TokenizerSettings};
use tetrad::error::{BackendError, CheckpointError, RanksError, StartError};
use tetrad::ranks::{Alone, Launch, Ranks, agree, launch, mpi};
use tetrad::train::{Observer, StepReport, Trainer, Validation};
use xxhash_rust::xxh3::xxh3_64;

use super::observer::ConsoleError;

/// The exit status after a rank was lost; schedulers take it for something that passes, and 2 for something that does not.
const LOST: u8 = 138;
const REFUSED: u8 = 2;

/// What launchers get to forward the last words of a rank: they drop what they have not read when a rank aborts.
const FORWARDING: Duration = Duration::from_secs(1);

/// How this process was started, by the variables of the environment.
fn launched() -> Result<Option<Launch>, RanksError> {
    launch(|name| std::env::var(name).ok())
}

/// What messages of this process begin with, so that it is told from its peers: nothing on rank 0.
pub(in crate::cli) fn speaker() -> String {
    match launched() {
        Ok(Some(Launch { rank: rank @ 1.., .. })) => format!("rank {rank}: "),
        _ => String::new(),
    }
}

/// Refuses what ranks would each do by themselves, into the same folders.
///
/// # Errors
/// If this process is one of several.
pub(in crate::cli) fn refuse(command: &str) -> Result<(), Failure> {
    match launched()? {
        Some(Launch { size, launcher, .. }) => {
            let by = launcher.name();
            Err(format!("{command}: {by} started {size} processes, and only `tetrad train` is shared among them")
                .into())
        }
        None => Ok(()),
    }
}

/// This process among its ranks.
pub(super) struct Joined {
    pub ranks: Arc<dyn Ranks>,
    /// Ranks on this machine.
    local: usize,
    timeout: Option<Duration>,
}

impl Joined {
    /// Joins the ranks that a launcher started, if one did.
    ///
    /// # Errors
    /// Launchers and libraries that do not belong together, and what ranks cannot do.
    pub fn open(config: &Config) -> Result<Self, Failure> {
        let Some(launched) = launched()? else { return Ok(Self::alone(config)) };
        if config.train.on_spike == OnSpike::Rewind {
            let why = "ranks do not go back to a checkpoint by themselves; set it to \"skip\" or \"stop\"";
            return Err(format!("train.on_spike = \"rewind\": {why}").into());
        }
        let ranks = mpi::open(&launched)?;
        Ok(Self { ranks, local: launched.local_size, ..Self::alone(config) })
    }

    /// A run of one process.
    pub fn alone(config: &Config) -> Self {
        let timeout = Some(config.ranks.timeout).filter(|seconds| *seconds > 0).map(Duration::from_secs);
        Self { ranks: Arc::new(Alone), local: 1, timeout }
    }

    /// Whether this rank speaks, and writes files.
    pub fn leads(&self) -> bool {
        self.ranks.rank() == 0
    }

    fn is_alone(&self) -> bool {
        self.ranks.size() == 1
    }

    /// Threads of this rank: those asked for, or its share of this machine's processors.
    pub fn threads(&self, asked: usize) -> usize {
        match asked {
            0 if !self.is_alone() => (std::thread::available_parallelism().map_or(1, usize::from) / self.local).max(1),
            asked => asked,
        }
    }

    /// The device of this rank.
    ///
    /// # Errors
    /// If it was asked to use a GPU.
    pub fn device(&self, asked: Device) -> Result<Device, Failure> {
        match asked {
            Device::Cuda(_) if !self.is_alone() => {
                let size = self.ranks.size();
                Err(format!("--device {asked}: {size} ranks compute on CPUs; use --device cpu, or start one process")
                    .into())
            }
            Device::Auto if !self.is_alone() => Ok(Device::Cpu),
            asked => Ok(asked),
        }
    }

    /// The ranks in words, for the first line of a run.
    pub fn describe(&self) -> String {
        match self.ranks.size() {
            1 => String::new(),
            size => format!("; {size} ranks by {}", self.ranks.describe()),
        }
    }

    /// A number of each rank.
    fn agree(&self, own: u64) -> Result<Vec<u64>, RanksError> {
        let mut all = vec![own; self.ranks.size()];
        if !self.is_alone() {
            agree(self.ranks.as_ref(), own, &mut all)?;
        }
        Ok(all)
    }

    /// Memory that each rank may use, given what is free on this machine: the same on all, so that all choose alike.
    pub fn free(&self, free: Option<u64>) -> Result<Option<u64>, RanksError> {
        let own = free.map_or(u64::MAX, |free| free / self.local as u64);
        let least = self.agree(own)?.into_iter().min().unwrap_or(own);
        Ok((least < u64::MAX).then_some(least))
    }

    /// Whether something is true on one rank at least.
    pub fn any(&self, own: bool) -> Result<bool, RanksError> {
        Ok(self.agree(own.into())?.contains(&1))
    }

    /// What `work` gives: first on rank 0, so that the others find what it has made. `stopped` tells afterwards whether a
    /// rank was asked to stop; then nothing is given. However long it takes, it is waited for.
    pub fn in_turn<T, E: Into<Failure>>(
        &self,
        mut work: impl FnMut() -> Result<T, E>,
        stopped: impl Fn(&Result<T, E>) -> bool,
    ) -> Result<Option<T>, Failure> {
        self.ranks.wait_at_most(None);
        let mut made = None;
        for turn in [true, false] {
            if self.leads() == turn {
                let result = work();
                let asked = stopped(&result);
                if !asked {
                    made = Some(result.map_err(Into::into)?);
                }
                if self.any(asked)? {
                    return Ok(None);
                }
            } else if self.any(false)? {
                return Ok(None);
            }
        }
        self.ranks.wait_at_most(self.timeout);
        Ok(made)
    }

    /// Checks that all ranks are about to train the same, and on processors that compute the same.
    ///
    /// # Errors
    /// In what two of them differ.
    pub fn compare(&self, config: &Config, text: &str, step: Option<u64>, device: &str) -> Result<(), RanksError> {
        // What names files may be another on another machine; their contents are in the fingerprint of the text.
        let run = RunConfig { dir: RunConfig::default().dir, threads: 0, ..config.run.clone() };
        let (data, tokenizer) = (DataConfig::default(), TokenizerSettings::default());
        let mut config = Config { run, data, tokenizer, ..config.clone() };
        config.adapter.base = None;
        let instructions = device.rsplit(", ").next().unwrap_or_default();
        let digest = |text: &str| xxh3_64(text.as_bytes());
        for (what, own) in [
            ("the version of the program", digest(env!("CARGO_PKG_VERSION"))),
            ("the configuration", digest(&config.to_toml())),
            ("the text", digest(text)),
            ("the checkpoint that they go on from", step.map_or(u64::MAX, |step| step)),
            ("the instruction set of their processors, which decides the last bits of sums", digest(instructions)),
        ] {
            let all = self.agree(own)?;
            if let Some(rank) = all.iter().position(|other| *other != all[0]) {
                return Err(RanksError::Differ { rank, what });
            }
        }
        Ok(())
    }

    /// Takes leave of the other ranks, or ends them if something failed here.
    ///
    /// # Errors
    /// What failed, where there are no other ranks.
    pub fn end(self, outcome: CliResult) -> CliResult {
        if self.is_alone() {
            return outcome;
        }
        let error = match outcome.and_then(|code| Ok(self.ranks.finish().map(|()| code)?)) {
            Ok(code) => return Ok(code),
            Err(error) => error,
        };
        let said = format!("tetrad: {}\n", explained(error.as_ref(), Options::Keys));
        // In one piece: a launcher forwards what it has read when the job ends, and no more.
        let _ = io::stderr().write_all(said.as_bytes());
        std::thread::sleep(FORWARDING);
        let code = if is_passing(error.as_ref()) { LOST } else { REFUSED };
        self.ranks.abort(code);
        Ok(ExitCode::from(code))
    }
}

/// Whether the same command may succeed another time.
fn is_passing(error: &(dyn std::error::Error + 'static)) -> bool {
    let of_backend = |error: &BackendError| matches!(error, BackendError::Ranks(error) if error.is_passing());
    match error.downcast_ref::<StartError>() {
        Some(StartError::Backend(error)) => of_backend(error),
        None if let Some(CheckpointError::Ranks(error)) = error.downcast_ref() => error.is_passing(),
        _ => {
            error.downcast_ref::<RanksError>().is_some_and(RanksError::is_passing)
                || error.downcast_ref::<BackendError>().is_some_and(of_backend)
        }
    }
}

/// What ranks other than 0 make of a run: nothing is shown or written.
pub(super) struct Follower;

impl Observer for Follower {
    type Error = ConsoleError;

    fn on_step(&mut self, _: &Trainer, _: &StepReport, _: Duration) -> Result<(), ConsoleError> {
        Ok(())
    }

    fn on_validation(&mut self, _: &Validation) -> Result<(), ConsoleError> {
        Ok(())
    }

    fn sample(&mut self, _: &mut Trainer) -> Result<(), ConsoleError> {
        Ok(())
    }

    fn save(&mut self, trainer: &Trainer) -> Result<(), ConsoleError> {
        Ok(contribute(trainer)?)
    }
}
