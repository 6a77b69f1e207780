//! The loop over steps, evaluation, metrics, and the choice of what fits into memory.

mod accumulate;
mod audit;
mod autotune;
mod base;
mod events;
mod metrics;
mod orthogonal;
mod run;
mod step;
mod system;
mod team;
mod updates;
mod watch;

pub use accumulate::accumulate;
pub(crate) use audit::median;
pub use audit::{Audit, AuditReport, code_distance};
pub use autotune::{Limits, Setting, alternatives, autotune, differences, fastest, largest_batch, smallest};
pub use base::FrozenBase;
pub use events::Events;
pub use metrics::{Line, Metrics};
pub use run::{Observer, Samples, StopReason, Validation, Work, run, validate};
pub use step::{Counters, StepReport, Trainer, plan};
pub use system::{available, resident, total_memory};
pub use team::{Exchanged, Straggler, check_ranks};
pub use watch::{Spike, Watch};
