//! The ranks that a library of MPI connects.

use super::calls::{Address, Calls, Functions, MOST_TEXT, MpiLibrary, first_line};
use crate::error::RanksError;
use crate::ranks::{Launch, Ranks};
use std::ffi::{c_char, c_int};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of a message at most. Calls count in `int`, and a chain of ranks works best on pieces that fit into caches.
const PIECE: usize = 1 << 20;

/// The tag of all messages: between two ranks they are received in the order in which they are sent.
const TAG: c_int = 7;

/// Polls without a pause, and polls that let other threads run; after those each is followed by a nap. A message of a peer
/// that works at the same time comes within the first; a rank that waits long leaves its core to others.
const SPINS: u32 = 2_000;
const YIELDS: u32 = 4_000;
const NAP: Duration = Duration::from_micros(50);

struct World<H> {
    functions: Functions<H>,
    name: String,
    rank: usize,
    size: usize,
    /// Seconds that a call waits for a peer; 0: without end.
    limit: AtomicU64,
    /// The permission to call MPI: one thread at a time.
    turn: Mutex<Turn>,
}

/// What calls of MPI need.
struct Turn {
    /// What MPI reads and writes; none after a call failed. It is never freed, because a message whose wait was given up
    /// may still arrive in it, and for the same reason never used again.
    buffer: Option<&'static mut [u8]>,
    /// Whether MPI has ended.
    ended: bool,
}

// SAFETY: the handles are numbers, or addresses that are never read through here; `MPI_THREAD_SERIALIZED` allows calls
// from any thread, one at a time, which `turn` sees to.
unsafe impl<H> Send for World<H> {}
// SAFETY: as above.
unsafe impl<H> Sync for World<H> {}

/// Begins MPI and checks that it sees the ranks that were launched.
pub(super) fn join(library: MpiLibrary, path: PathBuf, launched: &Launch) -> Result<Arc<dyn Ranks>, RanksError> {
    let lacks = |reason| RanksError::Library {
        launcher: launched.launcher.name(),
        size: launched.size,
        searched: path.display().to_string(),
        refused: format!("; {reason}"),
    };
    let calls = library.calls().map_err(lacks)?;
    let name = library.name.clone();
    std::mem::forget(library);
    match calls {
        Calls::Numbers(functions) => begin(functions, name, path, launched),
        Calls::Addresses(functions) => begin(functions, name, path, launched),
    }
}

fn begin<H: Copy + 'static>(
    functions: Functions<H>,
    name: String,
    path: PathBuf,
    launched: &Launch,
) -> Result<Arc<dyn Ranks>, RanksError> {
    let constants = functions.constants;
    let (none, mut found) = (std::ptr::null_mut::<()>() as Address, 0);
    // SAFETY: no arguments of the command line are passed on, which MPI allows; `found` receives a number. MPI begins
    // once: this is called once a process, after the launcher's variables were found.
    let code = unsafe { (functions.init_thread)(none, none, constants.serialized, &mut found) };
    if code != 0 {
        return Err(RanksError::Call { call: "MPI_Init_thread", said: format!("{name}, code {code}") });
    }
    let (mut rank, mut size) = (-1, -1);
    // SAFETY: MPI has begun; both receive a number.
    unsafe {
        (functions.comm_rank)(constants.world, &mut rank);
        (functions.comm_size)(constants.world, &mut size);
        (functions.set_errhandler)(constants.world, constants.errors_return);
    }
    let seen = (usize::try_from(rank).unwrap_or(usize::MAX), usize::try_from(size).unwrap_or(0));
    let leave = || {
        // SAFETY: MPI has begun, and nothing is under way.
        unsafe { (functions.finalize)() };
    };
    if seen != (launched.rank, launched.size) {
        leave();
        let (launcher, launched) = (launched.launcher.name(), (launched.rank, launched.size));
        return Err(RanksError::World { launcher, launched, library: name, path, seen });
    }
    if found < constants.serialized {
        leave();
        return Err(RanksError::Threads { library: name, found, needed: constants.serialized });
    }
    let turn = Mutex::new(Turn { buffer: Some(Box::leak(vec![0; PIECE].into_boxed_slice())), ended: false });
    Ok(Arc::new(World { functions, name, rank: seen.0, size: seen.1, limit: AtomicU64::new(0), turn }))
}

impl<H: Copy> World<H> {
    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls MPI, unless a call failed before.
    fn call(&self, work: impl FnOnce(&mut [u8]) -> Result<(), RanksError>) -> Result<(), RanksError> {
        let mut turn = self.lock();
        // Left there only if all went well; not after a panic either.
        let buffer = turn.buffer.take().ok_or(RanksError::Lost { rank: self.rank })?;
        work(buffer)?;
        turn.buffer = Some(buffer);
        Ok(())
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), RanksError> {
        if code == 0 {
            return Ok(());
        }
        let (mut text, mut len) = ([0 as c_char; MOST_TEXT], 0);
        // SAFETY: the text is as long as any interface asks for.
        unsafe { (self.functions.error_string)(code, text.as_mut_ptr(), &mut len) };
        Err(RanksError::Call { call, said: first_line(&text) })
    }

    /// Waits for what `start` begins; it gives the code of its call and fills in the request.
    fn wait(&self, call: &'static str, start: impl FnOnce(*mut u64) -> c_int) -> Result<(), RanksError> {
        // A request is four bytes or eight.
        let mut request = 0u64;
        self.check(call, start(&mut request))?;
        let (begun, mut polls) = (Instant::now(), 0u32);
        loop {
            let mut done = 0;
            // SAFETY: the request is the one that was begun, by the one thread that has the turn.
            let code = unsafe { (self.functions.test)(&mut request, &mut done, self.functions.constants.no_status) };
            self.check(call, code)?;
            if done != 0 {
                return Ok(());
            }
            polls = polls.saturating_add(1);
            match polls {
                ..SPINS => std::hint::spin_loop(),
                SPINS..YIELDS => std::thread::yield_now(),
                _ => {
                    let seconds = self.limit.load(Ordering::Relaxed);
                    if seconds > 0 && begun.elapsed().as_secs() >= seconds {
                        return Err(RanksError::Timeout { call, seconds });
                    }
                    std::thread::sleep(NAP);
                }
            }
        }
    }
}

impl<H: Copy> Ranks for World<H> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn describe(&self) -> String {
        self.name.clone()
    }

    fn send(&self, bytes: &[u8], to: usize) -> Result<(), RanksError> {
        let (f, c) = (&self.functions, self.functions.constants);
        self.call(|buffer| {
            bytes.chunks(PIECE).try_for_each(|piece| {
                buffer[..piece.len()].copy_from_slice(piece);
                let (at, len) = (buffer.as_ptr(), piece.len() as c_int);
                // SAFETY: the buffer lives for good, and is left alone until the message has gone.
                let start = |request| unsafe { (f.isend)(at, len, c.byte, to as c_int, TAG, c.world, request) };
                self.wait("MPI_Isend", start)
            })
        })
    }

    fn recv(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        let (f, c) = (&self.functions, self.functions.constants);
        self.call(|buffer| {
            bytes.chunks_mut(PIECE).try_for_each(|piece| {
                let (at, len) = (buffer.as_mut_ptr(), piece.len() as c_int);
                // SAFETY: the buffer lives for good, has room for the message, and is left alone until it has come.
                let start = |request| unsafe { (f.irecv)(at, len, c.byte, from as c_int, TAG, c.world, request) };
                self.wait("MPI_Irecv", start)?;
                piece.copy_from_slice(&buffer[..piece.len()]);
                Ok(())
            })
        })
    }

    fn share(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        let (f, c) = (&self.functions, self.functions.constants);
        self.call(|buffer| {
            bytes.chunks_mut(PIECE).try_for_each(|piece| {
                if from == self.rank {
                    buffer[..piece.len()].copy_from_slice(piece);
                }
                let (at, len) = (buffer.as_mut_ptr(), piece.len() as c_int);
                // SAFETY: as for a message that is sent, or received.
                let start = |request| unsafe { (f.ibcast)(at, len, c.byte, from as c_int, c.world, request) };
                self.wait("MPI_Ibcast", start)?;
                piece.copy_from_slice(&buffer[..piece.len()]);
                Ok(())
            })
        })
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) -> Result<(), RanksError> {
        assert_eq!(all.len(), own.len() * self.size, "room for all ranks");
        let (f, c) = (&self.functions, self.functions.constants);
        let most = (PIECE / (self.size + 1)).max(1);
        self.call(|buffer| {
            (0..own.len()).step_by(most).try_for_each(|from| {
                let len = most.min(own.len() - from);
                let (mine, others) = buffer.split_at_mut(len);
                mine.copy_from_slice(&own[from..from + len]);
                let others = &mut others[..len * self.size];
                let (at, to, count) = (mine.as_ptr(), others.as_mut_ptr(), len as c_int);
                // SAFETY: the buffer lives for good, its two parts are as long as said and do not overlap, and they are left
                // alone until all has come.
                let start = |request| unsafe { (f.iallgather)(at, count, c.byte, to, count, c.byte, c.world, request) };
                self.wait("MPI_Iallgather", start)?;
                for (rank, part) in others.chunks_exact(len).enumerate() {
                    all[rank * own.len() + from..][..len].copy_from_slice(part);
                }
                Ok(())
            })
        })
    }

    fn wait_at_most(&self, limit: Option<Duration>) {
        self.limit.store(limit.map_or(0, |limit| limit.as_secs().max(1)), Ordering::Relaxed);
    }

    /// Ends MPI. A process that ends without it takes the others with it.
    fn finish(&self) -> Result<(), RanksError> {
        let (f, c) = (&self.functions, self.functions.constants);
        self.call(|_| {
            // SAFETY: a barrier reads and writes nothing.
            self.wait("MPI_Ibarrier", |request| unsafe { (f.ibarrier)(c.world, request) })
        })?;
        let mut turn = self.lock();
        (turn.buffer, turn.ended) = (None, true);
        // SAFETY: nothing is under way, and no call follows: there is no buffer, and `abort` looks at `ended`.
        self.check("MPI_Finalize", unsafe { (f.finalize)() })
    }

    fn abort(&self, code: u8) {
        let turn = self.lock();
        if !turn.ended {
            // SAFETY: MPI has begun and not ended; the call ends this process with all others.
            unsafe { (self.functions.abort)(self.functions.constants.world, c_int::from(code)) };
        }
    }
}
