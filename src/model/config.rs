//! `[model]`: the numbers that make an architecture.

use crate::error::{Problems, number};
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
    /// How the rotary embedding's frequencies are scaled for long texts.
    #[serde(skip_serializing_if = "is_default")]
    pub rope_scaling: RopeScaling,
    /// By how much they are scaled, where they are.
    #[serde(skip_serializing_if = "is_default_factor")]
    pub rope_factor: f64,
    /// `llama3`: the context that the model was trained on before, in tokens.
    #[serde(skip_serializing_if = "is_default_original")]
    pub rope_original_context: usize,
    /// `llama3`: waves longer than the old context divided by this are scaled in full.
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

/// How the frequencies of the rotary embedding are scaled.
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

    /// The smallest side of all matrices in blocks; of a shape that was not checked too.
    pub fn smallest_side(&self) -> usize {
        let head_dim = self.head_dim.or(self.hidden.checked_div(self.heads)).unwrap_or(0);
        let width = |heads: usize| heads.saturating_mul(head_dim);
        self.hidden.min(self.intermediate).min(width(self.heads)).min(width(self.kv_heads))
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

/// Largest width, vocabulary or context: beyond any machine, and small enough that products of two fit.
const MOST: usize = 1 << 24;

/// Most blocks: several times those of any model, and few enough to be planned in a moment.
const MOST_LAYERS: usize = 1024;

/// Most parameters, and most activations of the widest kind: beyond any machine, and few enough that no sum of bytes
/// overflows.
pub const MOST_ELEMENTS: u64 = 1 << 46;

impl ModelConfig {
    /// Every mistake that its numbers alone show.
    pub fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        let dimensions = [
            ("model.hidden", self.hidden, MOST),
            ("model.intermediate", self.intermediate, MOST),
            ("model.layers", self.layers, MOST_LAYERS),
            ("model.heads", self.heads, MOST),
            ("model.kv_heads", self.kv_heads, MOST),
            ("model.vocab", self.vocab, MOST),
            ("model.context", self.context, MOST),
            ("model.head_dim", self.head_dim.unwrap_or(2), MOST),
        ];
        for (key, found, most) in dimensions {
            problems.within(key, found, 1, most);
        }
        // Dimensions that are within their limits can be multiplied.
        if problems.0.is_empty() {
            let parameters = self.parameters();
            let reason = format_args!("makes {parameters} parameters, at most {MOST_ELEMENTS} are possible");
            problems.need(parameters <= MOST_ELEMENTS, "model.hidden", self.hidden, reason);
        }
        self.head_problems(&mut problems);
        self.rope_problems(&mut problems);
        problems.positive("model.norm_eps", self.norm_eps, 0.1, "; 1e-6 is usual");
        problems.positive("model.init_std", self.init_std, 1.0, "; 0.02 is usual");
        problems
    }

    fn head_problems(&self, problems: &mut Problems) {
        let &ModelConfig { hidden, heads, kv_heads, .. } = self;
        if hidden == 0 || heads == 0 || kv_heads == 0 {
            return; // already named
        }
        if !heads.is_multiple_of(kv_heads) {
            let choices = divisors(heads, kv_heads, |_| true);
            let reason = format_args!("must divide model.heads = {heads}, which share keys and values; use {choices}");
            problems.need(false, "model.kv_heads", kv_heads, reason);
        }
        if let Some(size) = self.head_dim {
            let reason = "must be even, since rotary embeddings turn pairs of elements";
            problems.need(size.is_multiple_of(2), "model.head_dim", size, reason);
            // A query's width beyond this would overflow the sums below.
            let width = heads.saturating_mul(size);
            let reason = format_args!("makes queries of {width} elements with model.heads = {heads}, at most {MOST}");
            problems.need(width <= MOST, "model.head_dim", size, reason);
            return;
        }
        // Rotary embeddings turn pairs of elements, so a head needs an even number of them.
        let fits = |n: usize| (hidden / n).is_multiple_of(2);
        if !hidden.is_multiple_of(heads) {
            let choices = divisors(hidden, heads, fits);
            let reason = format_args!("must divide model.hidden = {hidden}; use {choices}");
            problems.need(false, "model.heads", heads, reason);
        } else if !fits(heads) {
            let (size, choices) = (hidden / heads, divisors(hidden, heads, fits));
            let reason = format_args!(
                "makes the head size {size} (model.hidden = {hidden}), and rotary embeddings need an even one; \
                 use {choices}"
            );
            problems.need(false, "model.heads", heads, reason);
        }
    }

    fn rope_problems(&self, problems: &mut Problems) {
        problems.positive("model.rope_theta", self.rope_theta, 1e12, "; 10000 is usual");
        problems.positive("model.rope_factor", self.rope_factor, 1e6, "; 1 scales nothing, LLaMA 3.1 has 8");
        problems.within("model.rope_original_context", self.rope_original_context, 1, MOST);
        problems.positive("model.rope_low", self.rope_low, 1e6, "; 1 is usual");
        problems.positive("model.rope_high", self.rope_high, 1e6, "; 4 is usual");
        let reason = format_args!("must exceed model.rope_low = {}; 4 is usual", self.rope_low);
        problems.need(self.rope_high > self.rope_low, "model.rope_high", number(self.rope_high), reason);
        let plain = self.rope_scaling == RopeScaling::None && self.rope_factor != 1.0;
        let reason = "has no effect without model.rope_scaling; remove it or set model.rope_scaling=\"linear\"";
        problems.need(!plain, "model.rope_factor", number(self.rope_factor), reason);
    }
}

/// The divisors of `n` that are `fit`, at most five and those nearest to `found`, for a message.
fn divisors(n: usize, found: usize, fit: impl Fn(usize) -> bool) -> String {
    let mut all: Vec<usize> = (1..=n.min(MOST)).filter(|d| n.is_multiple_of(*d) && fit(*d)).collect();
    if all.is_empty() {
        return "an even model.hidden".into();
    }
    all.sort_by_key(|d| d.abs_diff(found));
    all.truncate(5);
    all.sort_unstable();
    let names: Vec<String> = all.iter().map(usize::to_string).collect();
    names.join(" or ")
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
