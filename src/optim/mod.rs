//! Update rules: what is the same for all tensors of a step, the scalars of one tensor, and the formula of one
//! element. Pure arithmetic in a fixed order, so that every backend computes the same bytes.
//!
//! A backend's optimizer step calls, for each tensor: [`Constants::clip`] with the largest magnitude of the
//! gradient, [`Constants::rates`] with the norm of the clipped gradient, then [`Rates::update`] for every element.
//! Where second moments are shared, [`Rates::mean_of_squares`] comes first and [`Rates::update_shared`] takes the place
//! of [`Rates::update`]. Rules that look at an element's own second moment, or whose gradient depends on the weight,
//! are refused with such storage by the configuration.

mod config;
mod constants;
mod element;
mod scalars;
mod schedule;
mod step;

pub use config::{EmbeddingUpdate, Optimizer, Rule, Variant};
pub use constants::Constants;
pub use element::{Moved, Rates};
pub use scalars::{Clip, SCALARS, Scalars};
pub use schedule::{LearningRate, Schedule};
pub use step::Step;

/// What some updates did, together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcomes {
    /// Sum of the squares of the finite gradients as they came, added in the order of the updates.
    pub grad_sq: f64,
    /// Groups whose scale was rescaled.
    pub rescales: u64,
    /// Updates that changed nothing because the gradient was not finite.
    pub skipped: u64,
}

impl Outcomes {
    /// Takes one more update into account.
    pub fn add(&mut self, other: Self) {
        self.grad_sq += other.grad_sq;
        self.rescales += other.rescales;
        self.skipped += other.skipped;
    }
}
