//! The state of a communicator that two threads share: the one that computes, and one that sees to it that this does not
//! wait for a lost peer for ever.

use super::super::symbols::{Code, Nccl, NcclComm};
use super::library::error;
use super::{Handle, Lost};
use crate::error::RanksError;
use crate::store::ticks;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub(super) const SUCCESS: Code = 0;
pub(super) const IN_PROGRESS: Code = 7;

/// How often the other thread looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long a call of the driver may take to return after the communicator was aborted.
const GRACE: Duration = Duration::from_secs(10);
/// How a call goes is asked so often without a pause, and then after naps: most calls are queued within microseconds.
const YIELDS: u32 = 2_000;
const NAP: Duration = Duration::from_micros(50);

/// A communicator.
pub(super) struct Shared {
    nccl: Nccl,
    /// Nothing after it was aborted or destroyed.
    handle: Mutex<Option<Handle>>,
    failure: Mutex<Option<RanksError>>,
    failed: AtomicBool,
    /// Seconds that a peer is waited for; 0: without end.
    limit: AtomicU64,
    /// When the host entered the call of the driver that it is in, in microseconds from 1; 0: in none.
    since: AtomicU64,
    closed: Mutex<bool>,
    closing: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each is a value that is written at once.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> u64 {
    ticks().as_micros() as u64 + 1
}

impl Shared {
    pub(super) fn new(nccl: Nccl, handle: Handle, limit: Option<Duration>) -> Self {
        let shared = Self {
            nccl,
            handle: Mutex::new(Some(handle)),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
            limit: AtomicU64::new(0),
            since: AtomicU64::new(0),
            closed: Mutex::new(false),
            closing: Condvar::new(),
        };
        shared.set_limit(limit);
        shared
    }

    pub(super) fn set_limit(&self, limit: Option<Duration>) {
        self.limit.store(limit.map_or(0, |limit| limit.as_secs().max(1)), Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> Result<(), RanksError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        lock(&self.failure).clone().map_or(Ok(()), Err)
    }

    pub(super) fn enter(&self) -> Result<(), RanksError> {
        self.since.store(now(), Ordering::Release);
        self.status()
    }

    pub(super) fn leave(&self) -> Result<(), RanksError> {
        self.since.store(0, Ordering::Release);
        self.status()
    }

    /// Remembers the first failure, and aborts: kernels that wait for a peer end, and peers learn that this rank is gone.
    pub(super) fn fail(&self, error: RanksError) -> RanksError {
        let first = self.record(error);
        self.abort();
        first
    }

    fn record(&self, error: RanksError) -> RanksError {
        let first = lock(&self.failure).get_or_insert(error).clone();
        self.failed.store(true, Ordering::Release);
        first
    }

    fn abort(&self) {
        // The lock is not held while NCCL works, which might take for ever.
        let taken = lock(&self.handle).take();
        if let Some(Handle(comm)) = taken {
            // SAFETY: the handle was made by NCCL, and nobody has it any more.
            unsafe { (self.nccl.ncclCommAbort)(comm) };
        }
    }

    /// One call, or several in a group; it is queued when this returns.
    pub(super) fn call(
        &self,
        name: &'static str,
        queue: impl FnOnce(&Nccl, NcclComm) -> Code,
    ) -> Result<(), RanksError> {
        self.status()?;
        let code = match &*lock(&self.handle) {
            Some(Handle(comm)) => queue(&self.nccl, *comm),
            None => return Err(self.gone()),
        };
        match code {
            SUCCESS => Ok(()),
            IN_PROGRESS => self.settle(name),
            code => Err(self.fail(self.error(name, code))),
        }
    }

    /// Waits until NCCL has done its part of a call on the host.
    pub(super) fn settle(&self, name: &'static str) -> Result<(), RanksError> {
        let (begun, mut polls) = (ticks(), 0u32);
        loop {
            match self.state()? {
                SUCCESS => return Ok(()),
                IN_PROGRESS => {}
                code => return Err(self.fail(self.error(name, code))),
            }
            polls = polls.saturating_add(1);
            if polls < YIELDS {
                std::thread::yield_now();
                continue;
            }
            let seconds = self.limit.load(Ordering::Relaxed);
            if seconds > 0 && ticks().saturating_sub(begun).as_secs() >= seconds {
                return Err(self.fail(RanksError::Timeout { call: name, seconds }));
            }
            std::thread::sleep(NAP);
        }
    }

    /// How the communicator is.
    fn state(&self) -> Result<Code, RanksError> {
        let handle = lock(&self.handle);
        match &*handle {
            Some(handle) => Ok(self.state_of(handle)),
            None => Err(self.gone()),
        }
    }

    fn state_of(&self, handle: &Handle) -> Code {
        let mut state = SUCCESS;
        // SAFETY: the handle exists while it is borrowed; the state is written to a local.
        let code = unsafe { (self.nccl.ncclCommGetAsyncError)(handle.0, &mut state) };
        if code == SUCCESS { state } else { code }
    }

    pub(super) fn ask(&self) -> Result<(), RanksError> {
        match self.state()? {
            SUCCESS | IN_PROGRESS => Ok(()),
            code => Err(self.fail(self.error("NCCL", code))),
        }
    }

    /// Why there is no communicator.
    fn gone(&self) -> RanksError {
        let left = RanksError::Call { call: "NCCL", said: "the ranks have taken leave of each other".into() };
        lock(&self.failure).clone().unwrap_or(left)
    }

    fn error(&self, name: &'static str, code: Code) -> RanksError {
        error(&self.nccl, name, code, lock(&self.handle).as_ref().map(|handle| handle.0))
    }

    pub(super) fn finish(&self) -> Result<(), RanksError> {
        // SAFETY: the handle exists; nothing is under way after the last call, which all ranks have made.
        self.call("ncclCommFinalize", |nccl, comm| unsafe { (nccl.ncclCommFinalize)(comm) })?;
        let taken = lock(&self.handle).take();
        if let Some(Handle(comm)) = taken {
            // SAFETY: the handle was finalized, and nobody has it any more.
            unsafe { (self.nccl.ncclCommDestroy)(comm) };
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        self.abort();
        *lock(&self.closed) = true;
        self.closing.notify_all();
    }

    /// Waits a while; whether the communicator is closed then.
    fn is_closed_after(&self, time: Duration) -> bool {
        let closed = lock(&self.closed);
        let waited = self.closing.wait_timeout_while(closed, time, |closed| !*closed);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// What is wrong now, if anything. Where the other thread is in a call of NCCL, it asks itself.
    fn look(&self) -> Option<RanksError> {
        let state = self.handle.try_lock().ok().and_then(|handle| handle.as_ref().map(|handle| self.state_of(handle)));
        if let Some(code) = state.filter(|code| ![SUCCESS, IN_PROGRESS].contains(code)) {
            return Some(self.error("NCCL", code));
        }
        let (since, seconds) = (self.since.load(Ordering::Acquire), self.limit.load(Ordering::Relaxed));
        let late = since > 0 && seconds > 0 && now().saturating_sub(since) > seconds * 1_000_000;
        late.then_some(RanksError::Timeout { call: "NCCL", seconds })
    }
}

/// Starts the thread that looks after a communicator until it is closed.
pub(super) fn start(shared: Arc<Shared>, lost: Lost) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while !shared.is_closed_after(LOOK) {
            if shared.failed.load(Ordering::Acquire) {
                return linger(&shared, &lost);
            }
            if let Some(error) = shared.look() {
                shared.record(error);
                // By a thread of its own: that it does not return is among what this one looks for.
                let aborting = shared.clone();
                std::thread::spawn(move || aborting.abort());
            }
        }
    })
}

/// After a failure: whatever call of the driver the host is in, or enters to clean up, must return.
fn linger(shared: &Shared, lost: &Lost) {
    let failed = now();
    while !shared.is_closed_after(LOOK) {
        let since = shared.since.load(Ordering::Acquire);
        if since > 0 && now().saturating_sub(since.max(failed)) > GRACE.as_micros() as u64 {
            return lost(&shared.gone());
        }
    }
}
