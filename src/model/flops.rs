//! How much arithmetic a training step is.

use super::{Model, ParamKind};

impl Model {
    /// Multiplications and additions of the products of one training step on `sequences` sequences of `length` tokens, as Chowdhery
    /// et al. count them (arXiv 2204.02311, appendix B): forward once and backward once, whatever is computed again, and the pairs
    /// of query and key that see each other in a row of one sample. Not those of adapters, norms and the update.
    pub fn step_flops(&self, sequences: usize, length: usize) -> f64 {
        let (model, tokens) = (&self.settings.model, (sequences * length) as f64);
        let matrices: f64 = self
            .specs
            .iter()
            .filter(|spec| !spec.kind.is_adapter() && !spec.kind.is_vector())
            .map(|spec| {
                let reached = spec.kind.block().is_none_or(|block| block >= self.lowest);
                let products = match spec.kind {
                    // A lookup, unless it is the head too.
                    ParamKind::Embedding if !model.tied => 0,
                    _ => 1 + usize::from(reached) + usize::from(reached && spec.trainable),
                };
                (2 * products) as f64 * spec.shape.len() as f64
            })
            .sum();
        // Scores and values, and for each of them two gradients.
        let reached = (model.layers - self.lowest.min(model.layers)) as f64;
        let products = 2.0 * model.layers as f64 + 4.0 * reached;
        let pairs = (length * (length + 1) / 2 * sequences) as f64;
        tokens * matrices + 2.0 * products * pairs * (model.heads * model.head_dim()) as f64
    }
}
