//! What updates of parameters tell about themselves.

/// What some updates did, together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UpdateStats {
    /// Sum of the squares of the finite gradients as they came, added in the order of the updates.
    pub grad_sq: f64,
    /// Groups that were rescaled.
    pub rescales: u64,
    /// Updates that changed nothing because the gradient was not finite.
    pub skipped: u64,
}

impl UpdateStats {
    /// Takes one more update into account.
    pub fn add(&mut self, other: Self) {
        self.grad_sq += other.grad_sq;
        self.rescales += other.rescales;
        self.skipped += other.skipped;
    }
}
