//! The update of a parameter from its gradient.

use crate::backend::Param;
use crate::memory::Span;
use crate::optim::{Outcomes, Step};

/// The optimizer's part of a step.
pub trait Update {
    /// One update of a parameter in place from its complete gradient (float32, unpadded, read only).
    /// A gradient that is not finite changes nothing but is counted. Of a sparse parameter, rows whose gradient is zero
    /// are left as they are, unless moments are reset in this step.
    fn optimizer_step(&mut self, param: &Param, grad: Span, step: &Step);

    /// What the updates since the last call did, together: one question to the device for a whole step.
    fn outcomes(&mut self) -> Outcomes;
}
