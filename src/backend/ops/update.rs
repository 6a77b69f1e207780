//! The update of a parameter from its gradient.

use crate::backend::adam::AdamArgs;
use crate::backend::{Param, UpdateStats};
use crate::memory::Span;

/// What optimizer rules are made of.
pub trait Update {
    /// One update of a parameter in place by Adam, AdamW, SPAM or Stable-SPAM, which `args` tells apart, from its
    /// complete gradient (float32, unpadded, read only). The state has `m`, either `v` or `v_rows` (and `v_cols`), and
    /// `scalars` (see [`crate::backend::adam`]).
    /// A gradient that is not finite changes nothing but is counted. Of a sparse parameter, rows whose gradient is zero
    /// are left as they are, unless moments are reset in this step.
    fn adam(&mut self, param: &Param, grad: Span, args: &AdamArgs);

    /// What the updates since the last call did, together: one question to the device for a whole step.
    fn update_stats(&mut self) -> UpdateStats;
}
