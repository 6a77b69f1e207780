//! Adapters of other programs: PEFT folders and GGUF files in and out, mlx-lm folders in.
//!
//! Whatever the format, reading ends in a [`ForeignAdapter`]: every tensor found once, in the shape that the base needs,
//! finite, in our order of rows, with the factor that its program multiplies by. Options that change what is computed in
//! a way that is not known here are refused by name.

mod found;
mod gguf;
mod mlx;
mod open;
mod own;
mod patterns;
mod peft;
mod peft_config;
mod site;
mod write_gguf;
mod write_peft;
mod write_prefix;

pub use open::{is_adapter, open_adapter, parse_adapter_gguf, parse_peft};
pub use own::{Pair, pairs, prefix_blocks};
pub use site::{Site, Sites};
pub use write_gguf::export_adapter_gguf;
pub use write_peft::export_peft;

use crate::model::ParamKind;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// What alpha and the rank of a pair of matrices make of their product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleRule {
    /// alpha / r.
    AlphaOverRank,
    /// alpha / sqrt r, of rank-stabilized LoRA (arXiv 2312.03732).
    RankStabilized,
}

impl ScaleRule {
    /// The factor of a pair.
    pub fn factor(self, alpha: f64, rank: usize) -> f64 {
        match self {
            Self::AlphaOverRank => alpha / rank as f64,
            Self::RankStabilized => alpha / (rank as f64).sqrt(),
        }
    }
}

/// A pair of matrices beside one of the base: `W + factor B A`.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// The base's matrix `[rows, cols]`.
    pub site: ParamKind,
    /// r.
    pub rank: usize,
    /// alpha.
    pub alpha: f64,
    /// `[r, cols]`.
    pub a: Vec<f32>,
    /// `[rows, r]`.
    pub b: Vec<f32>,
    /// DoRA's norms, one a row; then a row of the sum is brought to this norm.
    pub magnitude: Option<Vec<f32>>,
}

/// What an adapter adds to the base.
#[derive(Clone, Debug, PartialEq)]
pub enum Parts {
    /// Pairs of matrices, in the order of the base's file.
    LowRank {
        /// What their alphas mean.
        rule: ScaleRule,
        /// The pairs.
        pairs: Vec<LowRank>,
    },
    /// Keys and values before every text, `[length, kv width]` for each block.
    Prefix {
        /// How many.
        length: usize,
        /// Keys, which are not rotated, and values.
        blocks: Vec<[Vec<f32>; 2]>,
    },
}

/// A checked adapter of another program.
#[derive(Clone, Debug, PartialEq)]
pub struct ForeignAdapter {
    /// The file or folder that was opened.
    pub path: PathBuf,
    /// Its format, for the first line of output.
    pub format: &'static str,
    /// What it adds.
    pub parts: Parts,
    /// The share of inputs that its training left out.
    pub dropout: f64,
    /// Whether all its numbers are bfloat16.
    pub bf16: bool,
    /// What it calls its base, if it says.
    pub base: Option<String>,
    /// What our own file said, where that is what it was made of.
    pub own: Option<Map<String, Value>>,
    /// The fingerprint of the base that it was trained on, where it was exported here.
    pub fingerprint: Option<String>,
    /// Notes for the user.
    pub notes: Vec<String>,
}
