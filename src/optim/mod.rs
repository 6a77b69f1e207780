//! Update rules: what is the same for all tensors of a step, the scalars of one tensor, and the formula of one
//! element. Pure arithmetic in a fixed order, so that every backend computes the same bytes.

/// Everything about one optimizer step that does not depend on the tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {}

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
