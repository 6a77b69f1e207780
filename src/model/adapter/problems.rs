//! What can be wrong with `[adapter]`.

use super::config::{AdapterConfig, AdapterKind, AdapterScale};
use super::pattern::PathPattern;
use super::{LowRankSite, MatrixSite, sites};
use crate::backend::MOST_PREFIX;
use crate::error::{Problems, number};
use crate::model::ModelConfig;

/// Rank of an adapter at most.
const MOST_RANK: usize = 1 << 16;

/// The keys that not every kind of adapter reads, and the kinds that do.
const READ_BY: [(&str, &[AdapterKind]); 14] = {
    use AdapterKind::{Bottleneck, Lora, Prefix};
    [
        ("targets", &[Lora]),
        ("rank", &[Lora]),
        ("alpha", &[Lora]),
        ("rank_pattern", &[Lora]),
        ("alpha_pattern", &[Lora]),
        ("group", &[Lora]),
        ("magnitude", &[Lora]),
        ("dropout", &[Lora]),
        ("rate_b", &[Lora]),
        ("weights", &[Lora, Bottleneck]),
        ("width", &[Bottleneck]),
        ("place", &[Bottleneck]),
        ("length", &[Prefix]),
        ("compensate", &[Prefix]),
    ]
};

impl AdapterKind {
    /// Its word in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lora => "lora",
            Self::Prefix => "prefix",
            Self::Bottleneck => "bottleneck",
        }
    }
}

impl AdapterConfig {
    /// Every mistake beside a model of this shape.
    pub fn problems(&self, model: &ModelConfig) -> Problems {
        let mut problems = Problems::default();
        if !self.is_some() {
            problems.need(
                *self == Self::default(),
                "adapter.kind",
                "\"none\"",
                "leaves nothing for the other keys of [adapter] to say; set it to \"lora\", \"prefix\" or \"bottleneck\", or remove them",
            );
            return problems;
        }
        self.unread(&mut problems);
        match self.kind {
            AdapterKind::None => {}
            AdapterKind::Lora => self.low_rank_problems(model, &mut problems),
            AdapterKind::Prefix => {
                self.layer_problems(model, &mut problems);
                self.plain_scale_problems(&mut problems);
                problems.within("adapter.length", self.length, 1, MOST_PREFIX);
            }
            AdapterKind::Bottleneck => {
                self.layer_problems(model, &mut problems);
                self.plain_scale_problems(&mut problems);
                problems.within("adapter.width", self.width, 1, MOST_RANK);
            }
        }
        problems
    }

    /// Keys that are set and that this kind does not read.
    fn unread(&self, problems: &mut Problems) {
        let json = |config: &Self| serde_json::to_value(config).expect("settings are JSON");
        let (own, default) = (json(self), json(&Self::default()));
        for (key, kinds) in READ_BY {
            let read = kinds.contains(&self.kind) || own[key] == default[key];
            let kinds = kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" and ");
            let reason =
                format_args!("is read of kind {kinds} only, and adapter.kind is {:?}; remove it", self.kind.name());
            problems.need(read, &format!("adapter.{key}"), &own[key], reason);
        }
    }

    /// The scale of what has no rank.
    fn plain_scale_problems(&self, problems: &mut Problems) {
        let reason =
            "divides by the root of a rank; without one, \"learned\" or \"alpha/r\", which is then 1, is possible";
        problems.need(self.scale != AdapterScale::RsLora, "adapter.scale", "\"rslora\"", reason);
    }

    fn low_rank_problems(&self, model: &ModelConfig, problems: &mut Problems) {
        problems.within("adapter.rank", self.rank, 1, MOST_RANK);
        let finite = |alpha: f64| alpha.is_finite() && alpha.abs() <= 1e6;
        let reason = "must be a number of at most 1e6";
        problems.need(finite(self.alpha), "adapter.alpha", number(self.alpha), reason);
        let reason = "must be at least 0 and below 1: the probability that an input is left out";
        problems.need((0.0..1.0).contains(&self.dropout), "adapter.dropout", number(self.dropout), reason);
        problems.positive("adapter.rate_b", self.rate_b, 1e6, ": a ratio of learning rates");
        let plain = !self.group && self.scale != AdapterScale::Learned;
        let reason = "needs A to see single inputs and a factor that is not learned; set adapter.group=false, and \
                      adapter.scale to \"alpha/r\" or \"rslora\"";
        problems.need(!self.magnitude || plain, "adapter.magnitude", self.magnitude, reason);
        self.place_problems(model, problems);
        let sites = self.sites(model);
        let in_blocks = sites.iter().all(|site| site.matrix.layer().is_some());
        let reason = "is of the matrices of blocks; take embedding and head out of adapter.targets";
        problems.need(!self.magnitude || in_blocks, "adapter.magnitude", self.magnitude, reason);
        let seen = sites.iter().all(|site| site.matrix != MatrixSite::Embedding);
        let reason = "sums up inputs, and the embedding has none; take it out of adapter.targets";
        problems.need(!self.group || seen, "adapter.group", self.group, reason);
        for (key, list, whole) in
            [("adapter.rank_pattern", &self.rank_pattern, true), ("adapter.alpha_pattern", &self.alpha_pattern, false)]
        {
            for text in list {
                if let Err(reason) = pattern_problem(&sites, text, whole) {
                    problems.need(false, key, format_args!("{text:?}"), reason);
                }
            }
        }
    }

    /// The adapted blocks.
    fn layer_problems(&self, model: &ModelConfig, problems: &mut Problems) -> Option<Vec<usize>> {
        let layers = sites::layers(&self.layers, model.layers);
        if let Err(reason) = &layers {
            problems.need(false, "adapter.layers", format_args!("{:?}", self.layers), reason);
        }
        layers.ok()
    }

    /// Mistakes of `targets` and `layers`.
    fn place_problems(&self, model: &ModelConfig, problems: &mut Problems) {
        let Some(layers) = self.layer_problems(model, problems) else { return };
        let reason = "names no matrix; \"all\" adapts the seven of a block";
        problems.need(!self.targets.is_empty(), "adapter.targets", "[]", reason);
        for target in &self.targets {
            let reason = match sites::Target::new(target) {
                Err(reason) => reason,
                Ok(target) if sites::matrices(&layers).any(|matrix| target.matches(matrix)) => continue,
                Ok(_) => {
                    let words: Vec<_> = sites::matrices(&[0]).map(MatrixSite::word).collect();
                    format!(
                        "matches no matrix of the adapted blocks; words are all, {}, paths end as in self_attn.q_proj",
                        words.join(", ")
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
    let matches = |site: &LowRankSite| pattern.matches(&site.matrix.path());
    match sites.iter().any(matches) {
        true => Ok(()),
        false => {
            Err("matches no adapted matrix; patterns are paths or their ends, such as q_proj or layers.0.mlp.*".into())
        }
    }
}
