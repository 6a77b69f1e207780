//! Signs of life from within long steps, validations and saves.

use crate::cli::output::print;
use indicatif::ProgressBar;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tetrad::train::Work;

/// How long something takes before it is spoken of, and the time between two lines: on a terminal, which redraws one, and
/// elsewhere.
const TERMINAL: Duration = Duration::from_secs(1);
const PLAIN: Duration = Duration::from_secs(10);

/// What is being done.
struct Task {
    name: String,
    work: Work,
    since: Instant,
    /// Passes of blocks before it began.
    before: u64,
}

#[derive(Default)]
struct State {
    task: Option<Task>,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Passes of blocks, counted by the model.
    passes: Arc<AtomicU64>,
    bar: Option<ProgressBar>,
}

/// A thread that says how far the work at hand is, if it takes long.
pub(super) struct Heartbeat {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Starts it. Without a thread, which the system may refuse, nothing is said.
    pub fn new(bar: Option<ProgressBar>, passes: Arc<AtomicU64>) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), passes, bar });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("tetrad-progress".into()).spawn(move || own.run()).ok();
        Self { shared, thread }
    }

    /// `work` begins, which is called `name`; nothing: it is done.
    pub fn begins(&self, work: Option<(String, Work)>) {
        let before = self.shared.passes.load(Ordering::Relaxed);
        let task = work.map(|(name, work)| Task { name, work, since: Instant::now(), before });
        self.shared.lock().task = task;
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A state of plain values is whole whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let every = if self.bar.is_some() { TERMINAL } else { PLAIN };
        let (mut state, mut said) = (self.lock(), Instant::now());
        while !state.ended {
            let waited = self.changed.wait_timeout(state, TERMINAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let due = |task: &&Task| task.since.elapsed() >= every && said.elapsed() >= every;
            if let Some(task) = state.task.as_ref().filter(due) {
                said = Instant::now();
                let line = describe(&task.name, task.work, self.passes.load(Ordering::Relaxed) - task.before);
                match &self.bar {
                    Some(bar) => bar.set_message(line),
                    // Nobody is there to be told of a closed pipe.
                    None => drop(print(|out| writeln!(out, "{line}"))),
                }
            }
        }
    }
}

/// How far the work is after so many passes of blocks.
fn describe(name: &str, work: Work, done: u64) -> String {
    match work {
        Work::Step { blocks } => {
            // With optimizer.grad_clip everything is done twice.
            let again = done > 2 * blocks;
            let (word, done) = if again { ("second ", done - 2 * blocks) } else { ("", done) };
            match done <= blocks {
                true => format!("{name}: {word}forward, block {done} of {blocks} done"),
                false => format!("{name}: {word}backward, block {} of {blocks} done", (done - blocks).min(blocks)),
            }
        }
        Work::Validation { passes } => format!("{name}: {} % done", 100 * done.min(passes) / passes.max(1)),
        Work::Save => format!("{name} ..."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_by_its_blocks_and_a_validation_by_its_share() {
        let step = |done| describe("step 3/9", Work::Step { blocks: 4 }, done);
        assert_eq!(step(2), "step 3/9: forward, block 2 of 4 done");
        assert_eq!(
            [step(5), step(8)],
            ["step 3/9: backward, block 1 of 4 done", "step 3/9: backward, block 4 of 4 done"]
        );
        assert_eq!(
            [step(9), step(16)],
            ["step 3/9: second forward, block 1 of 4 done", "step 3/9: second backward, block 4 of 4 done"]
        );
        assert_eq!(describe("validation", Work::Validation { passes: 8 }, 6), "validation: 75 % done");
        assert_eq!(describe("saving", Work::Save, 0), "saving ...");
    }
}
