//! Copies to the device from memory that is not pinned: a file's. The driver would hold up whoever asks for such a copy until
//! the device has done all that comes before it. A thread does that instead: it reads the file into two pinned pieces in
//! turn and submits their copies.

use super::device::Device;
use super::symbols::Code;
use crate::error::BackendError;
use cudarc::driver::sys::{CUdeviceptr, CUevent, CUstream};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Bytes of a pinned piece.
const PIECE: usize = 4 << 20;
const PIECES: usize = 2;
/// Events that one copy waits for, and copies that wait to be submitted: more than there are slots.
const MOST_EVENTS: usize = 16;
const MOST_JOBS: usize = 64;

/// A copy.
pub(super) struct Job {
    from: *const u8,
    bytes: usize,
    to: CUdeviceptr,
    used: CUevent,
    written: [CUevent; MOST_EVENTS],
    events: usize,
    copied: CUevent,
}

// SAFETY: the caller of `Stager::give` promises that source, target and events outlive the copy; the context is made current.
unsafe impl Send for Job {}

impl Job {
    /// From host memory to the device, after the operations that precede `used`; `copied` is recorded after it.
    pub(super) fn new(from: *const u8, bytes: usize, to: CUdeviceptr, [used, copied]: [CUevent; 2]) -> Self {
        Self { from, bytes, to, used, written: [std::ptr::null_mut(); MOST_EVENTS], events: 0, copied }
    }

    /// The source, or what is at the target, is not touched before a copy in the other direction is done.
    ///
    /// # Panics
    /// If it waits for more than there are slots.
    pub(super) fn after(mut self, event: CUevent) -> Self {
        self.written[self.events] = event;
        self.events += 1;
        self
    }
}

/// What the thread and its owner share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    /// Jobs whose copies were submitted, or could not be.
    submitted: u64,
    /// The first failure.
    code: Code,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread.
pub(super) struct Stager {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    given: u64,
}

impl Stager {
    /// Starts it, for copies on `stream`. The context is current.
    pub(super) fn new(device: &Arc<Device>, stream: CUstream) -> Result<Self, BackendError> {
        let pinned = Pinned::new(device, stream)?;
        let state = State { jobs: VecDeque::with_capacity(MOST_JOBS), submitted: 0, code: 0, ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("copies".into()).spawn(move || pinned.work(&own));
        let thread = thread.map_err(|error| device.failed("starting a thread for copies", &error.to_string()))?;
        Ok(Self { shared, thread: Some(thread), given: 0 })
    }

    /// Has a copy made; its number. Copies are submitted in the order in which they are given.
    ///
    /// # Safety
    /// Source and target have the job's bytes and are, like its events, there until the copy is done; nobody writes the source
    /// before.
    pub(super) unsafe fn give(&mut self, job: Job) -> u64 {
        let mut state = self.shared.state();
        while state.jobs.len() == MOST_JOBS {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.jobs.push_back(job);
        self.shared.changed.notify_all();
        self.given += 1;
        self.given
    }

    /// Waits until the first `number` copies were submitted, and so their events recorded; the first failure.
    pub(super) fn submitted(&self, number: u64) -> Code {
        let mut state = self.shared.state();
        while state.submitted < number {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.code
    }

    /// The same for all of them.
    pub(super) fn all_submitted(&self) -> Code {
        self.submitted(self.given)
    }
}

impl Drop for Stager {
    /// What was given is submitted first.
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// The pinned pieces, and for each an event that is recorded after its last copy.
struct Pinned {
    device: Arc<Device>,
    stream: CUstream,
    base: *mut u8,
    events: [CUevent; PIECES],
    next: usize,
}

// SAFETY: the memory is owned; stream and events may be used in any thread with the context current.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(device: &Arc<Device>, stream: CUstream) -> Result<Self, BackendError> {
        let (base, events) = (std::ptr::null_mut(), [std::ptr::null_mut(); PIECES]);
        let mut pinned = Self { device: device.clone(), stream, base, events, next: 0 };
        let mut base = std::ptr::null_mut();
        // SAFETY: the context is current; the address is written to a local.
        let code = unsafe { (device.driver.cuMemHostAlloc)(&mut base, PIECE * PIECES, 0) };
        device.check("taking pinned memory for a file's", code)?;
        pinned.base = base.cast();
        for event in &mut pinned.events {
            *event = device.event()?;
        }
        Ok(pinned)
    }

    /// What the thread does: one job after the other until its owner is gone.
    fn work(mut self, shared: &Shared) {
        loop {
            let mut state = shared.state();
            let job = loop {
                match state.jobs.pop_front() {
                    Some(job) => break job,
                    None if state.ended => return,
                    None => state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let failed = state.code;
            drop(state);
            let code = if failed == 0 { self.submit(&job).err().unwrap_or(0) } else { failed };
            let mut state = shared.state();
            state.submitted += 1;
            state.code = if state.code == 0 { code } else { state.code };
            shared.changed.notify_all();
        }
    }

    fn submit(&mut self, job: &Job) -> Result<(), Code> {
        let (device, stream) = (self.device.clone(), self.stream);
        let driver = &device.driver;
        done(device.current())?;
        for &event in &job.written[..job.events] {
            // SAFETY: the event lives, as `give` was promised. The host reads the source below, not the stream.
            done(unsafe { (driver.cuEventSynchronize)(event) })?;
        }
        // SAFETY: as above; the stream lives as long as its owner.
        done(unsafe { (driver.cuStreamWaitEvent)(stream, job.used, 0) })?;
        for from in (0..job.bytes).step_by(PIECE) {
            let (count, event) = (PIECE.min(job.bytes - from), self.events[self.next]);
            // SAFETY: there are PIECES pieces in the buffer.
            let piece = unsafe { self.base.add(self.next * PIECE) };
            // SAFETY: made by `new`; the piece's last copy is over after it, so it may be written. The source has these bytes,
            // as `give` was promised.
            unsafe {
                done((driver.cuEventSynchronize)(event))?;
                piece.copy_from_nonoverlapping(job.from.add(from), count);
                done((driver.cuMemcpyHtoDAsync_v2)(job.to + from as u64, piece.cast(), count, stream))?;
                done((driver.cuEventRecord)(event, stream))?;
            }
            self.next = (self.next + 1) % PIECES;
        }
        // SAFETY: as the events above.
        done(unsafe { (driver.cuEventRecord)(job.copied, stream) })
    }
}

fn done(code: Code) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(code) }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.device.current();
        let driver = &self.device.driver;
        for &event in self.events.iter().filter(|event| !event.is_null()) {
            // SAFETY: made by `new`. The last copy of its piece is waited for, and nobody else knows the event.
            unsafe {
                (driver.cuEventSynchronize)(event);
                (driver.cuEventDestroy_v2)(event);
            }
        }
        if !self.base.is_null() {
            // SAFETY: taken by `new`; all copies are over.
            unsafe { (driver.cuMemFreeHost)(self.base.cast()) };
        }
    }
}
