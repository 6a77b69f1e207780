//! The thread pool.

/// The largest `run.threads`; far above it the system runs out of threads, in ways that depend on the system.
const MOST: usize = 4096;

/// Runs `work` inside a pool of `threads` threads (0: all processors). The caller of every kernel is itself one of
/// them, so no thread is woken needlessly.
pub(super) fn run<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> Result<R, String> {
    if threads > MOST {
        return Err(format!("{threads} threads: at most {MOST} are possible, 0 means one per processor"));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("tetrad-{i}")).build();
    match pool {
        Ok(pool) => Ok(pool.install(work)),
        Err(e) => Err(format!("{threads} threads could not be started: {e}; lower run.threads")),
    }
}
