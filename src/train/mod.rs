//! The loop: one step, schedules, evaluation, metrics.

mod choose;
mod metrics;
mod run;
mod step;

pub use choose::{Limits, choose, fastest, smallest};
pub use metrics::{Line, Metrics, available, resident};
pub use run::{Observer, Samples, StopReason, Validation, run, validate};
pub use step::{Counters, StepReport, Trainer, plan};
