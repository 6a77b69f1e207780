//! The loop: one step, schedules, evaluation, metrics.

mod schedule;
mod step;

pub use schedule::learning_rate;
pub use step::{Counters, StepReport, Trainer, plan};
