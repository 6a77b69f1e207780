//! The fused pass of Adam's family: the constants of a step, the scalars of one tensor, and the formula of one element.
//! Pure arithmetic in a fixed order, so that every backend computes the same bytes.
//!
//! A backend's [`adam`](super::ops::Update::adam) calls, for each tensor: [`AdamArgs::clip`] with the largest magnitude of
//! the gradient, [`AdamArgs::params`] with the norm of the clipped gradient, then [`AdamParams::update`] for every
//! element. Where second moments are shared, [`AdamParams::mean_of_squares`] comes first and
//! [`AdamParams::update_shared`] takes the place of [`AdamParams::update`]. Rules that look at an element's own second
//! moment, or whose gradient depends on the weight, must not be used with such storage.

mod args;
mod element;
mod stable_spam;

pub use args::AdamArgs;
pub use element::{AdamParams, AdamStep};
pub use stable_spam::{Clip, SCALARS, Scalars};

/// The state tensors that the fused pass looks for.
pub mod state {
    /// First moment.
    pub const M: &str = "m";
    /// Second moment of each element.
    pub const V: &str = "v";
    /// Means of the squared gradient of rows, float32 `[rows, 1]`; in place of `v`.
    pub const V_ROWS: &str = "v_rows";
    /// The same of columns, float32 `[1, cols]`; beside `v_rows`, where `v` is factored.
    pub const V_COLS: &str = "v_cols";
    /// float32 `[1, 8]`, see [`super::Scalars`].
    pub const SCALARS: &str = "scalars";
}
