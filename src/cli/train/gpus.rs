//! Ranks on GPUs: which each takes, and how they meet.

use crate::cli::Failure;
use crate::cli::device::Device;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tetrad::backend::cuda::{self, Cuda, Lost, NcclLibrary, Search, UniqueId};
use tetrad::error::RanksError;
use tetrad::ranks::{ADDRESS, KeyStore, Launch, Launcher, Meeting, Ranks, find, launch, leave, meeting, spread};
use tetrad::store::remove;

use super::last_words;
use super::ranks::LOST;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where ranks meet at an address that a launcher's variables give, tells NCCL, which reads it from the environment. The first
/// thing that the program does with it.
pub(in crate::cli) fn name_address() {
    let launched = launch(variable).ok().flatten();
    let by_torchrun = launched.is_some_and(|launched| launched.launcher == Launcher::Torchrun);
    // What is wrong with them is said later, if ranks meet at all.
    if let (true, Ok(Meeting::Address(address))) = (by_torchrun, meeting(Launcher::Torchrun, variable)) {
        // SAFETY: the process has no other thread yet that could read the environment meanwhile: the only caller is the
        // program's own beginning, before it watches signals or computes.
        unsafe { std::env::set_var(ADDRESS, address) };
    }
}

/// A GPU for one of several ranks, and what it will reach the others by.
pub(super) struct OwnGpu {
    cuda: Cuda,
    library: NcclLibrary,
}

impl OwnGpu {
    /// The GPU with the number that this rank has on its machine, or the one that was named if it is alone there.
    ///
    /// # Errors
    /// Fewer GPUs than ranks, one that was named for several ranks, and whatever is missing.
    pub fn open(asked: Device, launched: &Launch) -> Result<Self, Failure> {
        let (local, ranks) = (launched.local_rank, launched.local_size.max(launched.local_rank + 1));
        let ordinal = match asked {
            Device::Cuda(Some(device)) if ranks > 1 => return Err(RanksError::OneDevice { device, ranks }.into()),
            Device::Cuda(Some(device)) => device,
            _ => local as u32,
        };
        let devices = cuda::count()? as usize;
        if ranks > devices && devices > 0 {
            return Err(RanksError::FewDevices { ranks, devices }.into());
        }
        let library = NcclLibrary::open(&Search::usual())?;
        Ok(Self { cuda: Cuda::open(ordinal)?, library })
    }

    /// Meets the other ranks' GPUs; `ranks` connects their processes already, if anything does, and all see the run's `folder`.
    ///
    /// # Errors
    /// If a rank does not come.
    pub fn join(
        mut self,
        launched: &Launch,
        ranks: Option<&Arc<dyn Ranks>>,
        folder: &Path,
        limit: Option<Duration>,
    ) -> Result<(Cuda, Arc<dyn Ranks>), Failure> {
        let mut left = None;
        let id = match ranks {
            // An address that the user names serves here too.
            Some(ranks) if variable(ADDRESS).is_none_or(|address| address.is_empty()) => {
                let own = if launched.rank == 0 { Some(self.library.unique_id()?) } else { None };
                let mut id = own.unwrap_or(UniqueId([0; 128]));
                ranks.share(&mut id.0, 0)?;
                id
            }
            _ => self.meet(launched, folder, limit, &mut left)?,
        };
        let place = (launched.rank, launched.size);
        let made = self.cuda.join(self.library, place, &id, limit, lost(launched, ranks.cloned()));
        // All have read it, or never will.
        if let Some(path) = left {
            let _ = remove(&path);
        }
        let made = made?;
        Ok((self.cuda, made))
    }

    /// The id of ranks that only their launcher's variables connect. `left`: a file that was made for that.
    fn meet(
        &self,
        launched: &Launch,
        folder: &Path,
        limit: Option<Duration>,
        left: &mut Option<PathBuf>,
    ) -> Result<UniqueId, RanksError> {
        match meeting(launched.launcher, variable)? {
            // It is in the environment: every rank's id is that of the address.
            Meeting::Address(_) => self.library.unique_id(),
            Meeting::Store { address, keys } => {
                let mut store = KeyStore::open(&address, limit)?;
                let mut id = if launched.rank == 0 { self.library.unique_id()? } else { UniqueId([0; 128]) };
                spread(&mut store, &keys, (launched.rank, launched.size), &mut id.0, limit)?;
                Ok(id)
            }
            Meeting::File(name) if launched.rank == 0 => {
                let (id, path) = (self.library.unique_id()?, folder.join(name));
                leave(&path, &id.0)?;
                *left = Some(path);
                Ok(id)
            }
            Meeting::File(name) => {
                let mut id = UniqueId([0; 128]);
                find(&folder.join(name), &mut id.0, limit)?;
                Ok(id)
            }
        }
    }
}

/// Ends this process, which stands still in the driver and cannot do so itself.
fn lost(launched: &Launch, ranks: Option<Arc<dyn Ranks>>) -> Lost {
    let rank = launched.rank;
    Box::new(move |error| {
        let why = format!(
            "rank {rank}: {error}; the GPU does not stop waiting, so this process ends; continue with --resume"
        );
        last_words::leave(&why);
        let _ = io::stderr().write_all(format!("tetrad: {why}\n").as_bytes());
        if let Some(ranks) = &ranks {
            ranks.abort(LOST);
        }
        std::process::exit(LOST.into());
    })
}
