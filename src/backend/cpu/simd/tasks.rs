//! How an operation's work is shared out: tasks cut by shape alone, taken by whichever thread is free, each thread
//! with its own area of scratch. Who computes a task never changes what it computes.

use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Areas start at multiples of this many elements: one cache line, so that threads never share one.
const LINE: usize = 16;

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

/// The scratch and the number of threads that share it.
pub(crate) struct Scratch<'a> {
    data: &'a mut [f32],
    threads: usize,
}

impl<'a> Scratch<'a> {
    pub fn new(data: &'a mut [f32], threads: usize) -> Self {
        Self { data, threads }
    }

    /// The shared part and the areas of the threads.
    ///
    /// # Panics
    /// If the scratch is too small: the operation's shapes exceed those it was planned for.
    pub fn split(&mut self, need: Need) -> (&mut [f32], Areas<'_>) {
        let total = need.total(self.threads);
        assert!(
            total <= self.data.len(),
            "an operation needs {total} elements of scratch, {} planned",
            self.data.len()
        );
        let (shared, rest) = self.data.split_at_mut(need.shared.next_multiple_of(LINE));
        let each = need.private.max(1).next_multiple_of(LINE);
        (&mut shared[..need.shared], Areas { data: &mut rest[..each * self.threads], each })
    }
}

/// One area of scratch per thread.
pub(crate) struct Areas<'a> {
    data: &'a mut [f32],
    each: usize,
}

impl Areas<'_> {
    /// Runs `work` on every task; `tasks` is drawn from under a lock, one at a time. Nothing is allocated.
    pub fn run<T: Send>(&mut self, tasks: impl Iterator<Item = T> + Send, work: impl Fn(T, &mut [f32]) + Sync) {
        let most = tasks.size_hint().1.unwrap_or(usize::MAX);
        let workers = most.min(self.data.len() / self.each);
        if workers <= 1 {
            return tasks.for_each(|task| work(task, &mut self.data[..self.each]));
        }
        let queue = Mutex::new(tasks);
        // A poisoned lock: another thread's panic is already on its way to the caller.
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        self.data.par_chunks_exact_mut(self.each).take(workers).with_max_len(1).for_each(|area| {
            while let Some(task) = next() {
                work(task, area);
            }
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
            let mut scratch = Scratch::new(&mut data, threads);
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
        Scratch::new(&mut [0.0; 64], 2).split(Need { shared: 32, private: 17 });
    }
}
