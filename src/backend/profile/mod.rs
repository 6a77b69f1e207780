//! Where the time of a step goes: a backend around another that notes each operation, when it began, how long it took, and
//! how much it had to compute and to move. It sees what a caller sees, so an operation that a device carries out later
//! would seem to take no time: it is for backends that are done when they return, as the CPU is.

mod cost;
mod wrapped;

pub use cost::Cost;

use super::Backend;
use crate::store::ticks;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is noted at most: the first of them. Each takes 64 bytes, which no plan counts.
pub const MOST_EVENTS: usize = 100_000;

/// Something that took time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// The operation as its trait names it.
    pub name: &'static str,
    /// Since the profile was made.
    pub begun: Duration,
    /// How long it took.
    pub took: Duration,
    /// What it had to do.
    pub cost: Cost,
}

/// All calls of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    /// How often it was called.
    pub calls: u64,
    /// How long it took in all.
    pub took: Duration,
    /// What it had to do in all.
    pub cost: Cost,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTime {
    /// Its number.
    pub number: u64,
    /// Since the profile was made.
    pub begun: Duration,
    /// How long it took.
    pub took: Duration,
}

/// What was noted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Operations inside of steps, without the first step, which waits for pages and fills caches.
    pub totals: BTreeMap<&'static str, Total>,
    /// How many steps these are of.
    pub steps: u64,
    /// How long these steps took, what lies between operations included.
    pub stepping: Duration,
    /// The first [`MOST_EVENTS`] operations, those outside of steps too.
    pub events: Vec<Event>,
    /// How many operations came after them.
    pub later: u64,
    /// The steps in which these operations lie.
    pub step_times: Vec<StepTime>,
    /// The step that is under way, and since when.
    step: Option<(u64, Duration)>,
    /// Whether one step is over.
    warm: bool,
}

/// The notes of one backend; clones are of the same.
#[derive(Clone, Debug)]
pub struct Profile {
    start: Duration,
    record: Arc<Mutex<Record>>,
}

impl Profile {
    /// Nothing is noted yet.
    pub fn new() -> Self {
        Self { start: ticks(), record: Arc::default() }
    }

    /// A backend that does what `backend` does, and notes it here.
    pub fn watch(&self, backend: Box<dyn Backend>) -> Box<dyn Backend> {
        Box::new(wrapped::Profiled::new(backend, self.clone()))
    }

    /// A step begins.
    pub fn begin_step(&self, number: u64) {
        let now = self.now();
        self.lock().step = Some((number, now));
    }

    /// The step ends that was begun.
    pub fn end_step(&self) {
        let (now, mut record) = (self.now(), self.lock());
        let Some((number, begun)) = record.step.take() else { return };
        let took = now.saturating_sub(begun);
        if record.warm {
            record.steps += 1;
            record.stepping += took;
        }
        record.warm = true;
        if record.events.len() < MOST_EVENTS {
            record.step_times.push(StepTime { number, begun, took });
        }
    }

    /// What was noted until now.
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    fn now(&self) -> Duration {
        ticks().saturating_sub(self.start)
    }

    /// Notes that `work` was done.
    fn note<R>(&self, name: &'static str, cost: Cost, work: impl FnOnce() -> R) -> R {
        let begun = self.now();
        let result = work();
        let took = self.now().saturating_sub(begun);
        let mut record = self.lock();
        if record.warm && record.step.is_some() {
            let total = record.totals.entry(name).or_default();
            (total.calls, total.took, total.cost) = (total.calls + 1, total.took + took, total.cost + cost);
        }
        if record.events.len() < MOST_EVENTS {
            record.events.push(Event { name, begun, took, cost });
        } else {
            record.later += 1;
        }
        result
    }

    /// Notes are whole after every statement, so those of a thread that panicked serve as well.
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::new()
    }
}
