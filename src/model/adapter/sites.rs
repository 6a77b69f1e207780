//! Which matrices of a model an adapter stands beside, each with its rank and its factor.

use super::config::{AdapterConfig, AdapterKind};
use super::matrix::MatrixSite;
use super::pattern::PathPattern;
use crate::model::{BlockParam, ModelConfig};

/// What means every block, and all matrices of each.
pub(super) const ALL: &str = "all";

/// A matrix that is adapted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRankSite {
    /// Which.
    pub matrix: MatrixSite,
    /// Rank.
    pub rank: usize,
    /// What the low-rank product is multiplied by, as far as that is not learned.
    pub factor: f64,
}

/// The embedding, the matrices of some blocks, the head.
pub(super) fn matrices(layers: &[usize]) -> impl Iterator<Item = MatrixSite> + '_ {
    let of_block = |&layer| BlockParam::MATRICES.map(|matrix| MatrixSite::Block(layer, matrix));
    [MatrixSite::Embedding].into_iter().chain(layers.iter().flat_map(of_block)).chain([MatrixSite::Head])
}

/// One of `targets`.
pub(super) enum Target {
    All,
    Word(String),
    Pattern(PathPattern),
}

impl Target {
    pub fn new(text: &str) -> Result<Self, String> {
        Ok(match text {
            ALL => Self::All,
            text if matrices(&[0]).any(|matrix| matrix.word() == text) => Self::Word(text.into()),
            text => Self::Pattern(PathPattern::new(text)?),
        })
    }

    pub fn matches(&self, matrix: MatrixSite) -> bool {
        match self {
            Self::All => matrix.layer().is_some(),
            Self::Word(wanted) => wanted == matrix.word(),
            Self::Pattern(pattern) => pattern.matches(&matrix.path()),
        }
    }
}

/// The blocks that a text names, of `count`, in ascending order.
pub(super) fn layers(text: &str, count: usize) -> Result<Vec<usize>, String> {
    let number = |text: &str| text.trim().parse::<usize>();
    if text.trim() == ALL {
        return Ok((0..count).collect());
    }
    if let Some(last) = text.trim().strip_prefix('-') {
        return match number(last) {
            Ok(last) if (1..=count).contains(&last) => Ok((count - last..count).collect()),
            _ => Err(format!("-N means the last N blocks, and the model has {count}")),
        };
    }
    let mut found = Vec::new();
    for part in text.split(',') {
        let ends = part.split_once('-').map_or((number(part), number(part)), |(a, b)| (number(a), number(b)));
        match ends {
            (Ok(first), Ok(last)) if first <= last && last < count => found.extend(first..=last),
            (Ok(_), Ok(_)) => return Err(format!("the model has blocks 0 to {}", count.saturating_sub(1))),
            _ => {
                return Err(
                    "must be \"all\", numbers and ranges such as \"0-4,7\", or \"-16\", the last sixteen".into()
                );
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Pattern and number of `PATTERN=NUMBER`.
pub(super) fn entry(text: &str) -> Result<(&str, f64), String> {
    let (pattern, value) = text.split_once('=').ok_or("is written PATTERN=NUMBER, such as \"q_proj=8\"")?;
    let value = value.trim().parse().map_err(|_| "is written PATTERN=NUMBER, such as \"q_proj=8\"")?;
    Ok((pattern.trim(), value))
}

impl AdapterConfig {
    /// The adapted matrices of a model, in the order of its file; of settings that [`AdapterConfig::problems`] refuses those that can
    /// be understood.
    pub fn sites(&self, model: &ModelConfig) -> Vec<LowRankSite> {
        if self.kind != AdapterKind::Lora {
            return Vec::new();
        }
        let layers = self.blocks(model);
        let targets: Vec<_> = self.targets.iter().filter_map(|target| Target::new(target).ok()).collect();
        let [ranks, alphas] = [&self.rank_pattern, &self.alpha_pattern].map(|list| Overrides::new(list));
        let adapted = matrices(&layers).filter(|&matrix| targets.iter().any(|target| target.matches(matrix)));
        let site = |matrix: MatrixSite| {
            let path = matrix.path();
            let rank = ranks.of(&path).map_or(self.rank, |rank| rank as usize).max(1);
            let alpha = alphas.of(&path).unwrap_or(self.alpha);
            LowRankSite { matrix, rank, factor: self.factor(rank, alpha) }
        };
        adapted.map(site).collect()
    }
}

impl AdapterConfig {
    /// The adapted blocks, in ascending order; none if they cannot be understood.
    pub fn blocks(&self, model: &ModelConfig) -> Vec<usize> {
        layers(&self.layers, model.layers).unwrap_or_default()
    }

    /// The smallest side of its matrices beside a base with groups of `group`; nothing without an adapter.
    pub fn smallest_side(&self, model: &ModelConfig, group: usize) -> Option<usize> {
        match self.kind {
            AdapterKind::Prefix => return Some(self.length.min(model.kv_width())),
            AdapterKind::Bottleneck => return Some(self.width.min(model.hidden)),
            AdapterKind::None | AdapterKind::Lora => {}
        }
        let smallest = |site: &LowRankSite| {
            let [outputs, inputs] = site.matrix.shape(model);
            let seen = if self.group { inputs.div_ceil(group.max(1)) } else { inputs };
            site.rank.min(outputs).min(seen)
        };
        self.sites(model).iter().map(smallest).min()
    }
}

/// One of the lists of patterns.
struct Overrides(Vec<(PathPattern, f64)>);

impl Overrides {
    fn new(list: &[String]) -> Self {
        let read = |text: &String| {
            let (pattern, value) = entry(text).ok()?;
            Some((PathPattern::new(pattern).ok()?, value))
        };
        Self(list.iter().filter_map(read).collect())
    }

    /// The number of the first pattern that a path matches.
    fn of(&self, path: &str) -> Option<f64> {
        self.0.iter().find(|(pattern, _)| pattern.matches(path)).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AdapterScale, AdapterWeights};

    fn lora() -> AdapterConfig {
        AdapterConfig { kind: AdapterKind::Lora, ..AdapterConfig::default() }
    }

    #[test]
    fn embedding_and_head_are_adapted_where_they_are_named() {
        let paths = |targets: &[&str], layers: &str| {
            let targets = targets.iter().map(|&target| target.to_owned()).collect();
            let config = AdapterConfig { targets, layers: layers.into(), ..lora() };
            let model = ModelConfig::default();
            assert!(config.problems(&model).0.is_empty());
            config.sites(&model).iter().map(|site| site.matrix.path()).collect::<Vec<_>>()
        };
        assert!(!paths(&["all"], "all").iter().any(|path| ["lm_head", "model.embed_tokens"].contains(&path.as_str())));
        assert_eq!(paths(&["head", "embedding"], "1"), ["model.embed_tokens", "lm_head"]);
        let all = paths(&["lm_head", "embed_tokens", "q"], "1");
        assert_eq!(all, ["model.embed_tokens", "model.layers.1.self_attn.q_proj", "lm_head"]);
    }

    fn prefix() -> AdapterConfig {
        AdapterConfig { kind: AdapterKind::Prefix, ..AdapterConfig::default() }
    }

    #[test]
    fn layers_are_named_by_numbers_ranges_or_from_the_end() {
        assert_eq!(layers("all", 3).unwrap(), [0, 1, 2]);
        assert_eq!(layers("-2", 5).unwrap(), [3, 4]);
        assert_eq!(layers("3, 0-1,1", 5).unwrap(), [0, 1, 3]);
        for wrong in ["-6", "-0", "5", "0-5", "3-1", "", "x", "1-", "0,,2", "1--2"] {
            assert!(layers(wrong, 5).is_err(), "{wrong}");
        }
    }

    #[test]
    fn patterns_give_modules_other_ranks_and_alphas_and_the_first_that_matches_counts() {
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let config = AdapterConfig {
            targets: list(&["q", "mlp.down_proj"]),
            layers: "1-2".into(),
            rank: 4,
            alpha: 8.0,
            rank_pattern: list(&["layers.1.mlp.down_proj=6", "down_proj=3"]),
            alpha_pattern: list(&["q_proj = 3"]),
            ..lora()
        };
        let model = ModelConfig::default();
        assert!(config.problems(&model).0.is_empty());
        let sites: Vec<_> =
            config.sites(&model).iter().map(|site| (site.matrix.path(), site.rank, site.factor)).collect();
        let expected = [
            ("model.layers.1.self_attn.q_proj", 4, 0.75),
            ("model.layers.1.mlp.down_proj", 6, 8.0 / 6.0),
            ("model.layers.2.self_attn.q_proj", 4, 0.75),
            ("model.layers.2.mlp.down_proj", 3, 8.0 / 3.0),
        ];
        assert_eq!(sites, expected.map(|(path, rank, factor)| (path.to_owned(), rank, factor)));
        assert_eq!(AdapterConfig { scale: AdapterScale::RsLora, ..lora() }.factor(4, 8.0), 4.0);
    }

    #[test]
    fn what_matches_nothing_is_a_mistake() {
        let model = ModelConfig::default();
        let key = |config: AdapterConfig| config.problems(&model).0.first().map(|problem| problem.key.clone());
        let list = |text: &str| vec![text.to_owned()];
        assert_eq!(key(lora()), None);
        assert_eq!(key(AdapterConfig::default()), None);
        for (config, wrong) in [
            (AdapterConfig { rank: 3, ..AdapterConfig::default() }, "adapter.kind"),
            (AdapterConfig { rank: 0, ..lora() }, "adapter.rank"),
            (AdapterConfig { alpha: f64::NAN, ..lora() }, "adapter.alpha"),
            (AdapterConfig { dropout: 1.0, ..lora() }, "adapter.dropout"),
            (AdapterConfig { rate_b: 0.0, ..lora() }, "adapter.rate_b"),
            (AdapterConfig { layers: "4".into(), ..lora() }, "adapter.layers"),
            (AdapterConfig { targets: list("c_attn"), ..lora() }, "adapter.targets"),
            (
                AdapterConfig { targets: list("layers.0.self_attn.q_proj"), layers: "1".into(), ..lora() },
                "adapter.targets",
            ),
            (AdapterConfig { targets: Vec::new(), ..lora() }, "adapter.targets"),
            (AdapterConfig { rank_pattern: list("c_attn=3"), ..lora() }, "adapter.rank_pattern"),
            (AdapterConfig { rank_pattern: list("q_proj=2.5"), ..lora() }, "adapter.rank_pattern"),
            (AdapterConfig { rank_pattern: list("q_proj"), ..lora() }, "adapter.rank_pattern"),
            (AdapterConfig { alpha_pattern: list("v_proj=inf"), ..lora() }, "adapter.alpha_pattern"),
            (AdapterConfig { magnitude: true, group: true, ..lora() }, "adapter.magnitude"),
            (AdapterConfig { magnitude: true, targets: list("head"), ..lora() }, "adapter.magnitude"),
            (AdapterConfig { group: true, targets: list("embed_tokens"), ..lora() }, "adapter.group"),
            (AdapterConfig { magnitude: true, scale: AdapterScale::Learned, ..lora() }, "adapter.magnitude"),
            (AdapterConfig { length: 3, ..lora() }, "adapter.length"),
            (AdapterConfig { length: 0, ..prefix() }, "adapter.length"),
            (AdapterConfig { length: 1025, ..prefix() }, "adapter.length"),
            (AdapterConfig { rank: 3, ..prefix() }, "adapter.rank"),
            (AdapterConfig { weights: AdapterWeights::Bf16, ..prefix() }, "adapter.weights"),
            (AdapterConfig { scale: AdapterScale::RsLora, ..prefix() }, "adapter.scale"),
            (AdapterConfig { layers: "9".into(), ..prefix() }, "adapter.layers"),
            (AdapterConfig { width: 3, ..prefix() }, "adapter.width"),
            (AdapterConfig { width: 0, kind: AdapterKind::Bottleneck, ..AdapterConfig::default() }, "adapter.width"),
            (
                AdapterConfig { compensate: false, kind: AdapterKind::Bottleneck, ..AdapterConfig::default() },
                "adapter.compensate",
            ),
        ] {
            assert_eq!(key(config).as_deref(), Some(wrong));
        }
    }
}
