//! `[adapter]`: what is trained beside a frozen base.

use super::{AdapterSite, sites};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[adapter]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterConfig {
    /// What kind of adapter is trained; with one, the base is frozen.
    pub kind: AdapterKind,
    /// The base model's file; an adapter's own file names its base by the fingerprint instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// The matrices that are adapted: `all`, words such as `q` and `down`, or patterns of module paths.
    pub targets: Vec<String>,
    /// The blocks that are adapted: `all`, numbers and ranges such as `0-4,7`, or `-16`, the last sixteen.
    pub layers: String,
    /// Rank.
    pub rank: usize,
    /// The numerator of the factor that what it adds is multiplied by.
    pub alpha: f64,
    /// That factor.
    pub scale: AdapterScale,
    /// Other ranks of some modules, as `PATTERN=RANK`; the first that matches counts.
    pub rank_pattern: Vec<String>,
    /// Other alphas of some modules, as `PATTERN=ALPHA`; the first that matches counts.
    pub alpha_pattern: Vec<String>,
    /// Whether A sees the sums of the base's groups in place of single inputs (QA-LoRA, arXiv 2309.14717): what it adds to
    /// the weights of a group is then one number, which an asymmetric group's offset takes up exactly.
    pub group: bool,
    /// Whether the rows of the sum are brought to norms that are trained (DoRA, arXiv 2402.09353).
    pub magnitude: bool,
    /// Probability that an input of the adapter is left out in a step.
    pub dropout: f64,
    /// Learning rate of B, and of learned scales, over that of A (LoRA+, arXiv 2402.12354).
    pub rate_b: f64,
    /// How A and B are stored.
    pub weights: AdapterWeights,
    /// Rows of a bottleneck's first matrix.
    pub width: usize,
    /// What a bottleneck stands beside.
    pub place: AdapterPlace,
    /// Keys of a prefix.
    pub length: usize,
    /// Whether the weights of a prefix are divided by their sum, so that they learn as fast as an adapter elsewhere (LAE, arXiv
    /// 2303.10070).
    pub compensate: bool,
}

/// Kinds of adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterKind {
    /// None: the whole model is trained.
    #[default]
    None,
    /// Low-rank matrices beside those of the base (arXiv 2106.09685): `y = W x + factor B A x`.
    Lora,
    /// Trained keys and values before every text, in each block's attention (arXiv 2101.00190). Keys are not rotated, and a
    /// text's positions begin after the prefix.
    Prefix,
    /// Two matrices and a GELU between them beside the attention or the MLP of a block (arXiv 1902.00751, parallel as in LAE):
    /// `y = M(x) + U gelu(D x + d) + u`.
    Bottleneck,
}

/// What a bottleneck stands beside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterPlace {
    /// The attention of a block: its input is that of the projections, normed.
    #[default]
    Attention,
    /// Its MLP.
    FeedForward,
}

impl AdapterPlace {
    /// That of a block.
    pub fn site(self, layer: usize) -> AdapterSite {
        match self {
            Self::Attention => AdapterSite::Attention(layer),
            Self::FeedForward => AdapterSite::Mlp(layer),
        }
    }
}

/// What an adapter is multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdapterScale {
    /// alpha / rank; of what has neither, 1.
    #[default]
    #[serde(rename = "alpha/r")]
    AlphaOverRank,
    /// alpha / sqrt(rank) (arXiv 2312.03732).
    #[serde(rename = "rslora")]
    RsLora,
    /// A trained number for each module, at first 1, as in LAE (arXiv 2303.10070); alpha is not read. Of a prefix, one for its
    /// keys and one for its values; of a bottleneck one.
    #[serde(rename = "learned")]
    Learned,
}

/// How the matrices of an adapter are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterWeights {
    /// float32.
    #[default]
    F32,
    /// bfloat16, stochastically rounded.
    Bf16,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            kind: AdapterKind::None,
            base: None,
            targets: vec![sites::ALL.into()],
            layers: sites::ALL.into(),
            rank: 16,
            alpha: 16.0,
            scale: AdapterScale::AlphaOverRank,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            group: false,
            magnitude: false,
            dropout: 0.0,
            rate_b: 1.0,
            weights: AdapterWeights::F32,
            width: 8,
            place: AdapterPlace::Attention,
            length: 16,
            compensate: true,
        }
    }
}

impl AdapterConfig {
    /// Whether there is an adapter.
    pub fn is_some(&self) -> bool {
        self.kind != AdapterKind::None
    }

    /// The factor of a module of this rank and alpha, as far as it is not learned.
    pub fn factor(&self, rank: usize, alpha: f64) -> f64 {
        match self.scale {
            AdapterScale::AlphaOverRank => alpha / rank as f64,
            AdapterScale::RsLora => alpha / (rank as f64).sqrt(),
            AdapterScale::Learned => 1.0,
        }
    }
}
