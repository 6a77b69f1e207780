//! The ranks of a training run: how they join, what they must agree on, and how they end.

use crate::cli::device::{self, Device, OpenDevice};
use crate::cli::hint::Options;
use crate::cli::{CliResult, Failure, explained};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tetrad::backend::DeviceInfo;
use tetrad::backend::cuda::{self, Cuda};
use tetrad::checkpoint::contribute;
use tetrad::config::{Config, OnSpike, RunConfig};
use tetrad::data::{DataConfig, TokenizerSettings};
use tetrad::error::{BackendError, CheckpointError, RanksError, StartError};
use tetrad::model::ModelConfig;
use tetrad::ranks::{Alone, Launch, Launcher, Ranks, agree, launch, mpi};
use tetrad::train::{Observer, StepReport, Trainer, Validation};
use xxhash_rust::xxh3::xxh3_64;

use super::gpus::OwnGpu;
use super::last_words;
use super::observer::ConsoleError;

/// The exit status after a rank was lost; schedulers take it for something that passes, and 2 for something that does not.
pub(super) const LOST: u8 = 138;
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
    launched: Option<Launch>,
    /// What connects the GPUs of the ranks, if they compute on these; where there is no MPI it is `ranks` too.
    gpus: Option<Arc<dyn Ranks>>,
    /// The GPU of this rank, until the run takes it.
    gpu: Mutex<Option<Cuda>>,
    /// Why the ranks compute on CPUs, where nobody asked for that.
    instead: Option<String>,
    /// Of the run.
    folder: PathBuf,
    timeout: Option<Duration>,
}

impl Joined {
    /// Joins the ranks that a launcher started, if one did: by MPI, or where torchrun started them by their GPUs.
    ///
    /// # Errors
    /// Launchers and libraries that do not belong together, and what ranks cannot do.
    pub fn open(config: &Config, device: Device) -> Result<Self, Failure> {
        let Some(launched) = launched()? else { return Ok(Self::alone(config)) };
        if config.train.on_spike == OnSpike::Rewind {
            let why = "ranks do not go back to a checkpoint by themselves; set it to \"skip\" or \"stop\"";
            return Err(format!("train.on_spike = \"rewind\": {why}").into());
        }
        let joined = Self { launched: Some(launched), ..Self::alone(config) };
        let no_gpu = device == Device::Cpu || (device == Device::Auto && cuda::probe().is_err());
        match launched.launcher {
            // It brings nothing that connects CPUs.
            Launcher::Torchrun if no_gpu => {
                return Err(RanksError::NoMpi { launcher: launched.launcher.name(), size: launched.size }.into());
            }
            Launcher::Torchrun => {}
            launcher => match mpi::open(&launched) {
                Ok(ranks) => return Ok(Self { ranks, ..joined }),
                // `srun` without MPI, or with one that has no part in it: GPUs need none.
                Err(RanksError::Library { .. } | RanksError::World { .. })
                    if launcher == Launcher::Slurm && !no_gpu => {}
                Err(error) => return Err(error.into()),
            },
        }
        let own = OwnGpu::open(device, &launched)?;
        let (gpu, gpus) = own.join(&launched, None, &joined.folder, joined.timeout)?;
        Ok(Self { ranks: gpus.clone(), gpus: Some(gpus), gpu: Mutex::new(Some(gpu)), ..joined })
    }

    /// Gives each of several ranks its GPU, where that was asked for, or where nothing was and each has one.
    ///
    /// # Errors
    /// What is missing, or does not fit together.
    pub fn take_gpus(&mut self, device: Device) -> Result<(), Failure> {
        let Some(launched) = self.launched.filter(|_| self.gpus.is_none()) else { return Ok(()) };
        // Else one would wait for GPUs that others never join.
        self.must_agree(device.kind(), "--device")?;
        if device == Device::Cpu {
            return Ok(());
        }
        let own = OwnGpu::open(device, &launched);
        if device == Device::Auto && self.any(own.is_err())? {
            // The searched folders are for those who asked for a GPU.
            self.instead = Some(match own.err() {
                None => "another rank has none".into(),
                Some(why) => match why.downcast_ref() {
                    Some(BackendError::Library { library, .. }) => format!("no {library}"),
                    _ => why.to_string(),
                },
            });
            return Ok(());
        }
        let (gpu, gpus) = own?.join(&launched, Some(&self.ranks), &self.folder, self.timeout)?;
        (self.gpus, self.gpu) = (Some(gpus), Mutex::new(Some(gpu)));
        Ok(())
    }

    /// A run of one process.
    pub fn alone(config: &Config) -> Self {
        let timeout = Some(config.ranks.timeout).filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let (launched, gpus, gpu, instead) = (None, None, Mutex::new(None), None);
        Self { ranks: Arc::new(Alone), launched, gpus, gpu, instead, folder: config.run.dir.clone(), timeout }
    }

    /// Whether this rank speaks, and writes files.
    pub fn leads(&self) -> bool {
        self.ranks.rank() == 0
    }

    fn is_alone(&self) -> bool {
        self.ranks.size() == 1
    }

    /// Ranks on this machine.
    fn local(&self) -> usize {
        self.launched.map_or(1, |launched| launched.local_size)
    }

    /// Threads of this rank: those asked for, or its share of this machine's processors.
    pub fn threads(&self, asked: usize) -> usize {
        match asked {
            0 if !self.is_alone() => {
                (std::thread::available_parallelism().map_or(1, usize::from) / self.local()).max(1)
            }
            asked => asked,
        }
    }

    /// Opens the device of this rank for `model`. `need` gives the bytes of memory that must be free on it.
    ///
    /// # Errors
    /// If a GPU was requested and cannot be used.
    pub fn device(
        &self,
        asked: Device,
        model: &ModelConfig,
        need: impl Fn(&dyn DeviceInfo) -> u64,
    ) -> Result<OpenDevice, Failure> {
        match self.gpu.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(gpu) => Ok(OpenDevice { backend: device::serve(gpu, model, &need)?, instead: None }),
            None if self.is_alone() => device::open(asked, model, need),
            None => device::open(Device::Cpu, model, need),
        }
    }

    /// The ranks in words, for the first line of a run.
    pub fn describe(&self) -> String {
        let (size, by) = (self.ranks.size(), self.ranks.describe());
        match (size, &self.gpus, &self.instead) {
            (1, ..) => String::new(),
            (_, Some(gpus), _) if gpus.describe() != by => {
                format!("; {size} ranks by {by}, GPUs by {}", gpus.describe())
            }
            (_, None, Some(why)) => format!("; {size} ranks by {by} (no GPU is used: {why})"),
            _ => format!("; {size} ranks by {by}"),
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

    /// Memory that each rank may use, given what is free on this machine, or on its own GPU: the same on all, so that all choose
    /// alike.
    pub fn free(&self, free: Option<u64>) -> Result<Option<u64>, RanksError> {
        let sharing = if self.gpus.is_some() { 1 } else { self.local() as u64 };
        let own = free.map_or(u64::MAX, |free| free / sharing);
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
        let (sums, decides) = match &self.gpus {
            Some(_) => (device, "their GPU or its libraries, which decide the last bits of sums"),
            None => (
                device.rsplit(", ").next().unwrap_or_default(),
                "the instruction set of their processors, which decides the last bits of sums",
            ),
        };
        let digest = |text: &str| xxh3_64(text.as_bytes());
        for (what, own) in [
            ("the version of the program", digest(env!("CARGO_PKG_VERSION"))),
            ("the configuration", digest(&config.to_toml())),
            ("the text", digest(text)),
            ("the checkpoint that they go on from", step.map_or(u64::MAX, |step| step)),
            (decides, digest(sums)),
        ] {
            self.must_agree(own, what)?;
        }
        Ok(())
    }

    /// Checks that a number is the same on all ranks.
    fn must_agree(&self, own: u64, what: &'static str) -> Result<(), RanksError> {
        let all = self.agree(own)?;
        match all.iter().position(|other| *other != all[0]) {
            Some(rank) => Err(RanksError::Differ { rank, what }),
            None => Ok(()),
        }
    }

    /// Takes leave of the other ranks, or ends them if something failed here.
    ///
    /// # Errors
    /// What failed, where there are no other ranks.
    pub fn end(self, outcome: CliResult) -> CliResult {
        if self.is_alone() {
            return outcome;
        }
        let error = match outcome.and_then(|code| Ok(self.finish().map(|()| code)?)) {
            Ok(code) => return Ok(code),
            Err(error) => error,
        };
        let why = explained(error.as_ref(), Options::Keys);
        last_words::leave(&why);
        let said = format!("tetrad: {why}\n");
        // In one piece: a launcher forwards what it has read when the job ends, and no more.
        let _ = io::stderr().write_all(said.as_bytes());
        std::thread::sleep(FORWARDING);
        let code = if is_passing(error.as_ref()) { LOST } else { REFUSED };
        for ranks in self.connections() {
            ranks.abort(code);
        }
        Ok(ExitCode::from(code))
    }

    /// GPUs first: they end with what all have received.
    fn finish(&self) -> Result<(), RanksError> {
        self.connections().try_for_each(|ranks| ranks.finish())
    }

    /// What connects the ranks, each once.
    fn connections(&self) -> impl Iterator<Item = &Arc<dyn Ranks>> {
        let gpus = self.gpus.iter();
        gpus.chain(Some(&self.ranks).filter(|ranks| self.gpus.as_ref().is_none_or(|gpus| !Arc::ptr_eq(gpus, ranks))))
    }
}

/// The end of a process that did not find the others: as if they had been lost, where that may be otherwise another time.
///
/// # Errors
/// Any other failure.
pub(super) fn unjoined(error: Failure) -> CliResult {
    if !is_passing(error.as_ref()) {
        return Err(error);
    }
    eprintln!("tetrad: {}", explained(error.as_ref(), Options::Keys));
    Ok(ExitCode::from(LOST))
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
