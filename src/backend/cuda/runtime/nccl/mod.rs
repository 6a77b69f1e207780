//! The devices of other ranks, by NCCL. What is sent and received is queued on the device's own stream, among its other
//! operations, and no call waits for a peer but the first with it.
//!
//! A communicator does not block: where NCCL would wait, this thread asks again and again how the call went, so that it
//! finds an error and the end of its patience. What waits later is the device, in a kernel that a lost peer never ends; the
//! host then stands still in some call of the driver, and another thread ([`watch`]) ends that.

mod calls;
mod library;
mod staging;
mod watch;

pub use library::{NcclLibrary, UniqueId};

use super::device::Device;
use super::memory::{Arena, Staging};
use super::symbols::{Code, Nccl, NcclComm};
use crate::error::{BackendError, RanksError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use watch::Shared;

/// Bytes of a piece of sums that are received to be added.
pub(super) const SUMS: usize = 4 << 20;
/// Bytes of the host's that travel at once.
const STAGE: usize = 1 << 20;
/// Bytes of what is put aside ([`super::Gpu::put_aside`]).
pub(super) const ASIDE: usize = 256 << 10;

/// What is done when a call of the driver does not return even after the communicator was aborted: nothing else can end
/// this process then.
pub type Lost = Box<dyn Fn(&RanksError) + Send>;

/// One rank among others, on its device.
pub struct Communicator {
    shared: Arc<Shared>,
    watching: Option<JoinHandle<()>>,
    /// Sums, bytes of the host on their way, and what was put aside. Of this size whatever the run: it is there before the
    /// run's memory is planned.
    memory: Arena,
    staging: Mutex<Staging>,
    device: Arc<Device>,
    rank: usize,
    size: usize,
    version: String,
}

// SAFETY: the handle of the communicator is behind a mutex, staging too, and the device makes its context current before
// every use, in whatever thread.
unsafe impl Sync for Communicator {}
// SAFETY: as above.
unsafe impl Send for Communicator {}

/// A communicator's handle, while it exists.
struct Handle(NcclComm);

// SAFETY: NCCL's communicators may be used from any thread, one at a time, which the mutex around this sees to.
unsafe impl Send for Handle {}

impl Communicator {
    /// Meets the other ranks. `limit`: how long they are waited for, here and later; nothing: without end.
    pub(super) fn meet(
        device: &Arc<Device>,
        library: NcclLibrary,
        (rank, size): (usize, usize),
        id: &UniqueId,
        limit: Option<Duration>,
        lost: Lost,
    ) -> Result<Self, BackendError> {
        device.check("joining the ranks", device.current())?;
        let memory = Arena::new(device, SUMS + STAGE + ASIDE)?;
        let staging = Mutex::new(Staging::new(device)?);
        let version = library.version();
        let handle = library.begin(rank, size, id)?;
        let shared = Arc::new(Shared::new(library.into_symbols(), handle, limit));
        shared.settle("ncclCommInitRank")?;
        let watching = Some(watch::start(shared.clone(), lost));
        Ok(Self { shared, watching, memory, staging, device: device.clone(), rank, size, version })
    }

    /// Number of this rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The library with its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How long a peer is waited for from now on; nothing: without end.
    pub fn wait_at_most(&self, limit: Option<Duration>) {
        self.shared.set_limit(limit);
    }

    /// Whether all ranks could be reached so far.
    ///
    /// # Errors
    /// The first failure.
    pub fn status(&self) -> Result<(), RanksError> {
        self.shared.status()
    }

    /// Before the host calls the driver, in whose calls it may wait for the device and so for a peer.
    ///
    /// # Errors
    /// As [`Communicator::status`].
    pub(super) fn enter(&self) -> Result<(), RanksError> {
        self.shared.enter()
    }

    /// After it.
    pub(super) fn leave(&self) -> Result<(), RanksError> {
        self.shared.leave()
    }

    /// What NCCL says about itself, where a call of the driver failed: it may be the cause.
    pub(super) fn ask(&self) -> Result<(), RanksError> {
        self.shared.ask()
    }

    /// Waits for all ranks, and takes leave of them. Nothing is sent after that.
    ///
    /// # Errors
    /// If one is lost.
    pub fn finish(&self) -> Result<(), RanksError> {
        self.gather(&[0], &mut vec![0; self.size])?;
        self.shared.finish()
    }

    /// Gives up: the device ends what it waits for, and peers find out that this rank is gone.
    pub fn abort(&self) {
        self.shared.fail(RanksError::Lost { rank: self.rank });
    }

    /// The address of the part of the memory that is received to be added.
    pub(super) fn sums(&self) -> u64 {
        self.memory.base
    }

    fn stage(&self) -> u64 {
        self.memory.base + SUMS as u64
    }

    /// The address of what was put aside.
    pub(super) fn aside(&self) -> u64 {
        self.memory.base + (SUMS + STAGE) as u64
    }

    /// The stream's work so far, in NCCL's terms.
    fn call(&self, name: &'static str, queue: impl FnOnce(&Nccl, NcclComm) -> Code) -> Result<(), RanksError> {
        self.shared.call(name, queue)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // All that was queued is done, or nobody wants it any more; after `finish` there is nothing to abort.
        self.shared.close();
        if let Some(watching) = self.watching.take() {
            // It ends when it sees that this is closed; that it panicked is of no interest any more.
            let _ = watching.join();
        }
    }
}
