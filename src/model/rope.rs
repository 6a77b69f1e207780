//! The rotary table: angles of every position, scaled where the model was made for longer texts.

use super::{Activations, ModelConfig, RopeScaling};
use crate::backend::Backend;
use std::f64::consts::TAU;
use zerocopy::IntoBytes;

/// By how much pair `i` of a head's elements turns slower than it would unscaled: 1 for no scaling.
///
/// `llama3` is the rule of LLaMA 3.1: waves longer than the old context / `rope_low` turn slower by the whole factor,
/// those shorter than the old context / `rope_high` as before, and between the two it is interpolated in frequency.
pub fn rope_factor(model: &ModelConfig, i: usize) -> f64 {
    let factor = model.rope_factor;
    match model.rope_scaling {
        RopeScaling::None => 1.0,
        RopeScaling::Linear => factor,
        RopeScaling::Llama3 => {
            let waves = model.rope_original_context as f64 * frequency(model, i) / TAU;
            let share = ((waves - model.rope_low) / (model.rope_high - model.rope_low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - share) / factor + share)
        }
    }
}

/// Radians by which pair `i` turns from one position to the next, unscaled.
fn frequency(model: &ModelConfig, i: usize) -> f64 {
    1.0 / model.rope_theta.powf(2.0 * i as f64 / model.head_dim() as f64)
}

/// The rotary table, float32 as Hugging Face computes it: angles are rounded to float32 before cosine and sine.
pub fn fill_rope(acts: &Activations, model: &ModelConfig, backend: &mut dyn Backend) {
    let head_dim = model.head_dim();
    let positions = acts.rope.bytes / (4 * head_dim);
    let frequencies: Vec<f32> =
        (0..head_dim / 2).map(|i| (frequency(model, i) / rope_factor(model, i)) as f32).collect();
    let mut table = Vec::with_capacity(positions * head_dim);
    for position in 0..positions {
        for frequency in &frequencies {
            let angle = f64::from(position as f32 * frequency);
            table.extend([angle.cos() as f32, angle.sin() as f32]);
        }
    }
    backend.upload(table.as_bytes(), acts.rope);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_scales_long_waves_only() {
        // LLaMA 3.1 8B.
        let model = ModelConfig {
            hidden: 4096,
            heads: 32,
            rope_theta: 500_000.0,
            rope_scaling: RopeScaling::Llama3,
            rope_factor: 8.0,
            ..ModelConfig::default()
        };
        let found = [0, 28, 29, 32, 34, 35, 63].map(|i| rope_factor(&model, i));
        assert_eq!((found[0], found[6]), (1.0, 8.0));
        assert!(found.windows(2).all(|pair| pair[0] <= pair[1]), "{found:?}");
        assert!((found[3] - LLAMA_3_PAIR_32).abs() < 1e-5, "{found:?}");
    }

    /// By the formula of the release: wave 2 pi 500000^(64/128) = 4442.88; (8192/4442.88 - 1) / 3 = 0.281283 is kept.
    const LLAMA_3_PAIR_32: f64 = 2.694_529_7;
}
