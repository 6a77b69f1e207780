//! `[adapter]`: what is trained beside a frozen base.

use super::LowRankSite;
use super::pattern::PathPattern;
use super::sites;
use crate::error::{Problems, number};
use crate::model::{BlockParam, ModelConfig};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Rank of an adapter at most.
const MOST_RANK: usize = 1 << 16;

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
    /// Probability that an input of the adapter is left out in a step.
    pub dropout: f64,
    /// Learning rate of B, and of learned scales, over that of A (LoRA+, arXiv 2402.12354).
    pub rate_b: f64,
    /// How A and B are stored.
    pub weights: AdapterWeights,
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
}

/// What a low-rank product is multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdapterScale {
    /// alpha / rank.
    #[default]
    #[serde(rename = "alpha/r")]
    AlphaOverRank,
    /// alpha / sqrt(rank) (arXiv 2312.03732).
    #[serde(rename = "rslora")]
    RsLora,
    /// A trained number for each module, at first 1, as in LAE (arXiv 2303.10070); alpha is not read.
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
            dropout: 0.0,
            rate_b: 1.0,
            weights: AdapterWeights::F32,
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

    /// Every mistake beside a model of this shape.
    pub fn problems(&self, model: &ModelConfig) -> Problems {
        let mut problems = Problems::default();
        if !self.is_some() {
            problems.need(
                *self == Self::default(),
                "adapter.kind",
                "\"none\"",
                "leaves nothing for the other keys of [adapter] to say; set it to \"lora\" or remove them",
            );
            return problems;
        }
        problems.within("adapter.rank", self.rank, 1, MOST_RANK);
        let finite = |alpha: f64| alpha.is_finite() && alpha.abs() <= 1e6;
        let reason = "must be a number of at most 1e6";
        problems.need(finite(self.alpha), "adapter.alpha", number(self.alpha), reason);
        let reason = "must be at least 0 and below 1: the probability that an input is left out";
        problems.need((0.0..1.0).contains(&self.dropout), "adapter.dropout", number(self.dropout), reason);
        problems.positive("adapter.rate_b", self.rate_b, 1e6, ": a ratio of learning rates");
        self.place_problems(model, &mut problems);
        let sites = self.sites(model);
        for (key, list, whole) in
            [("adapter.rank_pattern", &self.rank_pattern, true), ("adapter.alpha_pattern", &self.alpha_pattern, false)]
        {
            for text in list {
                if let Err(reason) = pattern_problem(&sites, text, whole) {
                    problems.need(false, key, format_args!("{text:?}"), reason);
                }
            }
        }
        problems
    }

    /// Mistakes of `targets` and `layers`.
    fn place_problems(&self, model: &ModelConfig, problems: &mut Problems) {
        let layers = match sites::layers(&self.layers, model.layers) {
            Ok(layers) => layers,
            Err(reason) => {
                problems.need(false, "adapter.layers", format_args!("{:?}", self.layers), reason);
                return;
            }
        };
        let reason = "names no matrix; \"all\" adapts the seven of a block";
        problems.need(!self.targets.is_empty(), "adapter.targets", "[]", reason);
        for target in &self.targets {
            let reason = match sites::Target::new(target) {
                Err(reason) => reason,
                Ok(target) if sites::matrices(&layers).any(|(l, matrix)| target.matches(l, matrix)) => continue,
                Ok(_) => {
                    let words = BlockParam::MATRICES.map(BlockParam::word).join(", ");
                    format!(
                        "matches no matrix of the adapted blocks; words are all, {words}, paths end as in self_attn.q_proj"
                    )
                }
            };
            problems.need(false, "adapter.targets", format_args!("{target:?}"), reason);
        }
    }
}

/// What is wrong with one of the lists' `PATTERN=NUMBER`.
fn pattern_problem(sites: &[LowRankSite], text: &str, whole: bool) -> Result<(), String> {
    let (pattern, value) = sites::entry(text)?;
    let sound = if whole {
        value.fract() == 0.0 && (1.0..=MOST_RANK as f64).contains(&value)
    } else {
        value.is_finite() && value.abs() <= 1e6
    };
    if !sound {
        let allowed = if whole { format!("a whole number from 1 to {MOST_RANK}") } else { "at most 1e6".into() };
        return Err(format!("the number after = must be {allowed}"));
    }
    let pattern = PathPattern::new(pattern)?;
    let matches = |site: &LowRankSite| pattern.matches(&site.path());
    match sites.iter().any(matches) {
        true => Ok(()),
        false => {
            Err("matches no adapted matrix; patterns are paths or their ends, such as q_proj or layers.0.mlp.*".into())
        }
    }
}
