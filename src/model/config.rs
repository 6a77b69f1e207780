//! `[model]`: the numbers that make an architecture.

use serde::{Deserialize, Serialize};

/// `[model]`: a LLaMA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the SwiGLU block.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Longest sequence the model is meant for, in tokens.
    pub context: usize,
    /// Elements per head; absent: hidden / heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Whether queries, keys and values have biases (Qwen2).
    #[serde(skip_serializing_if = "is_default")]
    pub qkv_bias: bool,
    /// Whether each head of queries and keys is normed before it is rotated (Qwen3).
    #[serde(skip_serializing_if = "is_default")]
    pub qk_norm: bool,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// How the rotary embedding's frequencies are stretched for long texts.
    #[serde(skip_serializing_if = "is_default")]
    pub rope_scaling: RopeScaling,
    /// By how much they are stretched, where they are.
    #[serde(skip_serializing_if = "is_default_factor")]
    pub rope_factor: f64,
    /// `llama3`: the context that the model was trained on before, in tokens.
    #[serde(skip_serializing_if = "is_default_original")]
    pub rope_original_context: usize,
    /// `llama3`: waves longer than the old context divided by this are stretched in full.
    #[serde(skip_serializing_if = "is_default_low")]
    pub rope_low: f64,
    /// `llama3`: waves shorter than the old context divided by this are left as they are.
    #[serde(skip_serializing_if = "is_default_high")]
    pub rope_high: f64,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f64,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// Standard deviation of the initial normal distribution.
    pub init_std: f64,
}

/// How the frequencies of the rotary embedding are stretched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All of them alike.
    Linear,
    /// The long waves only, as LLaMA 3.1 does.
    Llama3,
}

// Keys that older files do not have are written only where they say something, so that those files stay readable
// and new ones of the same model stay the same.

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_default_factor(value: &f64) -> bool {
    *value == ModelConfig::default().rope_factor
}

fn is_default_original(value: &usize) -> bool {
    *value == ModelConfig::default().rope_original_context
}

fn is_default_low(value: &f64) -> bool {
    *value == ModelConfig::default().rope_low
}

fn is_default_high(value: &f64) -> bool {
    *value == ModelConfig::default().rope_high
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            hidden: 128,
            intermediate: 344,
            layers: 4,
            heads: 4,
            kv_heads: 4,
            vocab: 256,
            context: 128,
            head_dim: None,
            qkv_bias: false,
            qk_norm: false,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            rope_factor: 1.0,
            rope_original_context: 8192,
            rope_low: 1.0,
            rope_high: 4.0,
            norm_eps: 1e-6,
            tied: false,
            init_std: 0.02,
        }
    }
}

impl ModelConfig {
    /// Elements per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden / self.heads)
    }

    /// Width of the queries and of the heads' output.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim()
    }

    /// Width of the keys and of the values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim()
    }

    /// Trained numbers: embedding, head (if untied), four attention and three feed-forward matrices and two norms
    /// per block, one last norm. Saturates at `u64::MAX`.
    pub fn parameters(&self) -> u64 {
        let wide = |n: usize| n as u128;
        let (hidden, query, kv) = (wide(self.hidden), wide(self.query_width()), wide(self.kv_width()));
        let biases = if self.qkv_bias { query + 2 * kv } else { 0 };
        let norms = if self.qk_norm { 2 * wide(self.head_dim()) } else { 0 };
        let attention = 2 * hidden * query + 2 * hidden * kv + biases + norms;
        let feed_forward = 3 * hidden * wide(self.intermediate);
        let block = attention + feed_forward + 2 * hidden;
        let tables = if self.tied { 1 } else { 2 } * wide(self.vocab) * hidden;
        let total = block.checked_mul(wide(self.layers)).and_then(|blocks| blocks.checked_add(tables + hidden));
        total.and_then(|n| u64::try_from(n).ok()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_heads_and_tied_tables_are_not_counted_twice() {
        let model = ModelConfig {
            hidden: 8,
            intermediate: 3,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            vocab: 10,
            tied: true,
            ..ModelConfig::default()
        };
        // q and o: 8x8; k and v: 4x8; gate, up, down: 3x8; two norms of 8; one table; one last norm.
        assert_eq!(model.parameters(), 2 * (2 * 64 + 2 * 32 + 3 * 24 + 16) + 80 + 8);
    }

    #[test]
    fn a_size_beyond_u64_does_not_wrap_around() {
        let huge = 1 << 40;
        let model = ModelConfig { hidden: huge, intermediate: huge, layers: huge, ..ModelConfig::default() };
        assert_eq!(model.parameters(), u64::MAX);
    }
}
