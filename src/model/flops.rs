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

#[cfg(test)]
mod tests {
    use crate::backend::cpu::Cpu;
    use crate::config::Config;
    use crate::train::plan;

    #[test]
    fn a_step_is_about_six_for_each_weight_and_token() {
        let config = Config::preset("60m").unwrap();
        let (_, model) = plan(&config, &Cpu::new());
        let (h, f, layers, vocab) = (512.0, 1376.0, 8.0, 32000.0);
        let weights = layers * (4.0 * h * h + 3.0 * h * f) + vocab * h;
        // 4 sequences of 256: three times two products of 256 x 257 / 2 pairs, each 512 multiplications and additions.
        let attention = layers * 6.0 * (4.0 * 256.0 * 257.0 / 2.0) * 2.0 * h;
        assert_eq!(model.step_flops(4, 256), 6.0 * weights * 1024.0 + attention);
    }
}
