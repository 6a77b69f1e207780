//! Update rules: what is the same for all tensors of a step, the scalars of one tensor, and the formula of one
//! element. Pure arithmetic in a fixed order, so that every backend computes the same bytes.
//!
//! A backend's optimizer step calls, for each tensor: [`Step::clip`] with the largest magnitude of the gradient,
//! [`Step::rates`] with the norm of the clipped gradient, then [`Rates::update`] for every element.

mod element;
mod scalars;
mod step;

pub use element::{Moved, Rates};
pub use scalars::{Clip, SCALARS, Scalars};
pub use step::Step;

/// What an update did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Whether the gradient was finite; if not, nothing was changed.
    pub finite: bool,
    /// Sum of the squares of the gradient as it came.
    pub grad_sq: f64,
    /// Groups whose scale was fitted anew.
    pub refits: u64,
}
