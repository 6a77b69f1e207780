//! How an operation's work is divided: tasks taken by whichever thread is free, each thread with its own area of scratch.
//! Tasks are cut by shape alone where that shows in the result; which thread computes one never does.

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The threads of a backend: those of the caller's pool if it has as many, else a pool of its own, started when it is
/// first needed.
pub(crate) struct Pool {
    threads: usize,
    /// `None` inside if the system gave no threads: then the caller's pool does the work, with the same results.
    own: OnceLock<Option<ThreadPool>>,
}

impl Pool {
    /// # Panics
    /// If there is no thread.
    pub fn new(threads: usize) -> Self {
        assert!(threads > 0, "a backend without a thread");
        Self { threads, own: OnceLock::new() }
    }

    /// How many threads share an operation's work.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` in a pool of this many threads. A thread of such a pool runs it itself: no thread is
    /// woken and nothing is allocated.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if rayon::current_thread_index().is_some() && rayon::current_num_threads() == self.threads {
            return work();
        }
        let build = || ThreadPoolBuilder::new().num_threads(self.threads).build().ok();
        match self.own.get_or_init(build) {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

/// Areas start at multiples of this many elements, a cache line, so that threads never share one.
pub(crate) const LINE: usize = 16;

/// Scratch that an operation needs, in float32 elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Once.
    pub shared: usize,
    /// For each thread.
    pub private: usize,
}

impl Need {
    /// Elements in all.
    pub fn total(self, threads: usize) -> usize {
        self.shared.next_multiple_of(LINE) + threads * self.private.max(1).next_multiple_of(LINE)
    }
}

/// The scratch and the threads that share it.
pub(crate) struct Scratch<'a> {
    data: &'a mut [f32],
    pool: &'a Pool,
}

impl<'a> Scratch<'a> {
    pub fn new(data: &'a mut [f32], pool: &'a Pool) -> Self {
        Self { data, pool }
    }

    /// How many threads share it.
    pub fn threads(&self) -> usize {
        self.pool.threads
    }

    /// The first `elements`, a multiple of a cache line, and the rest.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn divide(&mut self, elements: usize) -> (&mut [f32], Scratch<'_>) {
        assert!(elements.is_multiple_of(LINE) && elements <= self.data.len(), "{elements} of {}", self.data.len());
        let (first, rest) = self.data.split_at_mut(elements);
        (first, Scratch { data: rest, pool: self.pool })
    }

    /// The shared part and the areas of the threads.
    ///
    /// # Panics
    /// If the scratch is too small: the operation's shapes exceed those it was planned for.
    pub fn split(&mut self, need: Need) -> (&mut [f32], Areas<'_>) {
        let total = need.total(self.pool.threads);
        assert!(
            total <= self.data.len(),
            "an operation needs {total} elements of scratch, {} planned",
            self.data.len()
        );
        let (shared, rest) = self.data.split_at_mut(need.shared.next_multiple_of(LINE));
        let each = need.private.max(1).next_multiple_of(LINE);
        (&mut shared[..need.shared], Areas { data: &mut rest[..each * self.pool.threads], each, pool: self.pool })
    }
}

/// One area of scratch per thread.
pub(crate) struct Areas<'a> {
    data: &'a mut [f32],
    each: usize,
    pool: &'a Pool,
}

impl Areas<'_> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.data.len() / self.each
    }

    /// Runs `work` on every task; `tasks` is drawn from under a lock, one at a time. Nothing is allocated.
    pub fn run<T: Send>(&mut self, tasks: impl Iterator<Item = T> + Send, work: impl Fn(T, &mut [f32]) + Sync) {
        let most = tasks.size_hint().1.unwrap_or(usize::MAX);
        let workers = most.min(self.count());
        if workers <= 1 {
            return tasks.for_each(|task| work(task, &mut self.data[..self.each]));
        }
        let queue = Mutex::new(tasks);
        // A poisoned lock: another thread's panic is already on its way to the caller.
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        self.pool.install(|| {
            self.data.par_chunks_exact_mut(self.each).take(workers).with_max_len(1).for_each(|area| {
                while let Some(task) = next() {
                    work(task, area);
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let mut data = vec![0.0; 1000];
            let mut counts = vec![0; 100];
            let pool = Pool::new(threads);
            let mut scratch = Scratch::new(&mut data, &pool);
            let (shared, mut areas) = scratch.split(Need { shared: 5, private: 17 });
            assert_eq!(shared.len(), 5);
            areas.run(counts.iter_mut(), |count, area| {
                assert_eq!((area.len(), area.as_ptr() as usize % 4), (32, 0));
                *count += 1;
            });
            assert_eq!(counts, [1; 100]);
        }
    }

    #[test]
    #[should_panic(expected = "elements of scratch")]
    fn a_shape_beyond_the_plan_is_refused() {
        Scratch::new(&mut [0.0; 64], &Pool::new(2)).split(Need { shared: 32, private: 17 });
    }

    #[test]
    fn work_runs_in_as_many_threads_wherever_it_is_called() {
        let pool = Pool::new(3);
        assert_eq!(pool.install(rayon::current_num_threads), 3);
        for threads in [1, 3, 4] {
            let caller = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(caller.install(|| pool.install(rayon::current_num_threads)), 3);
        }
    }

    #[test]
    fn a_caller_with_as_many_threads_does_the_work_itself() {
        let (pool, caller) = (Pool::new(2), ThreadPoolBuilder::new().num_threads(2).build().unwrap());
        caller.install(|| pool.install(|| ()));
        assert!(pool.own.get().is_none(), "no threads were started");
    }
}
