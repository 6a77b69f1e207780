//! A machine that keeps what is asked of the disk, refuses it, or stops doing it, and whose clock means nothing.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tetrad::quant::philox;
use tetrad::store::{Machine, Operation, on_machine};

/// An operation that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    CreateFolder(PathBuf),
    Create(PathBuf),
    Reserve(PathBuf, u64),
    Write(PathBuf, u64, Vec<u8>),
    SetLen(PathBuf, u64),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncFolder(PathBuf),
    Remove(PathBuf),
    RemoveFolder(PathBuf),
    Scratch(PathBuf, u64),
    /// The program was told that the checkpoint of this step is saved.
    Saved(u64),
}

impl Done {
    fn of(operation: &Operation<'_>) -> Self {
        let own = Path::to_path_buf;
        match *operation {
            Operation::CreateFolder(path) => Done::CreateFolder(own(path)),
            Operation::Create(path) => Done::Create(own(path)),
            Operation::Reserve { path, len } => Done::Reserve(own(path), len),
            Operation::Write { path, at, bytes } => Done::Write(own(path), at, bytes.to_vec()),
            Operation::SetLen { path, len } => Done::SetLen(own(path), len),
            Operation::Sync(path) => Done::Sync(own(path)),
            Operation::Rename { from, to } => Done::Rename(own(from), own(to)),
            Operation::SyncFolder(path) => Done::SyncFolder(own(path)),
            Operation::Remove(path) => Done::Remove(own(path)),
            Operation::RemoveFolder(path) => Done::RemoveFolder(own(path)),
            Operation::Scratch { folder, len } => Done::Scratch(own(folder), len),
        }
    }
}

/// What happens at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The process ends; of a write, so many per cent were done.
    Killed { percent: u64 },
    /// The operation fails with this error of the system.
    Refused(i32),
}

#[derive(Default)]
struct State {
    log: Option<Vec<Done>>,
    /// After how many operations what happens.
    armed: Option<(usize, Fate)>,
    /// What happened, and at which operation.
    met: Option<(Fate, Done)>,
    asked: usize,
    readings: u32,
}

/// A simulated machine over a real folder.
#[derive(Default)]
pub struct Simulated(Mutex<State>);

impl Simulated {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Does `work` on it.
    pub fn run<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        on_machine(self.clone(), work)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Keeps what is done from now on.
    pub fn record(&self) {
        self.state().log = Some(Vec::new());
    }

    /// What was done since.
    pub fn recorded(&self) -> Vec<Done> {
        self.state().log.take().unwrap_or_default()
    }

    /// After so many more operations, this happens.
    pub fn arm(&self, operations: usize, fate: Fate) {
        let mut state = self.state();
        state.armed = Some((state.asked + operations, fate));
    }

    /// Whether something is to happen still.
    pub fn is_armed(&self) -> bool {
        self.state().armed.is_some()
    }

    /// What has happened since it was armed; a new process is not concerned.
    pub fn restart(&self) -> Option<(Fate, Done)> {
        let mut state = self.state();
        let met = state.met.take();
        if met.is_some() {
            state.armed = None;
        }
        met
    }

    /// Whether it has happened.
    pub fn has_met(&self) -> bool {
        self.state().met.is_some()
    }

    pub fn note(&self, done: Done) {
        if let Some(log) = &mut self.state().log {
            log.push(done);
        }
    }
}

/// Does the first bytes of a write.
fn write_partly(path: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|file| file.write_all_at(bytes, at)).expect("the file is being written");
}

impl Machine for Simulated {
    fn before(&self, operation: &Operation<'_>) -> io::Result<()> {
        let mut state = self.state();
        if let Some((Fate::Killed { .. }, _)) = state.met {
            return Err(io::Error::other("killed"));
        }
        let number = state.asked;
        state.asked += 1;
        let fate = state.armed.filter(|(at, _)| *at == number).map(|(_, fate)| fate);
        let done = Done::of(operation);
        if let Some(fate) = fate {
            state.met = Some((fate, done));
            return match fate {
                Fate::Refused(code) => Err(io::Error::from_raw_os_error(code)),
                Fate::Killed { percent } => {
                    if let Operation::Write { path, at, bytes } = *operation {
                        let part = &bytes[..bytes.len() * percent as usize / 100];
                        write_partly(path, at, part);
                        if let Some(log) = &mut state.log {
                            log.push(Done::Write(path.into(), at, part.to_vec()));
                        }
                    }
                    Err(io::Error::other("killed"))
                }
            };
        }
        if let Some(log) = &mut state.log {
            log.push(done);
        }
        Ok(())
    }

    /// A clock that jumps about.
    fn time(&self) -> Duration {
        let mut state = self.state();
        state.readings += 1;
        Duration::from_micros(u64::from(philox([state.readings, 0, 0, 0], [7, 1])[0]) << 20)
    }

    fn ticks(&self) -> Duration {
        self.time()
    }
}
