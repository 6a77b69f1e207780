//! What a configuration of an optimizer may hold.

use super::{EmbeddingUpdate, OptimizerConfig, OptimizerContext, ParamClass, ParamInfo, Rule, StateConfig};
use crate::error::{Problems, number};
use crate::quant::GroupedShape;

/// Keys that every rule reads, or that have a check of their own.
const COMMON: [&str; 5] = ["name", "lr", "weight_decay", "grad_clip", "variant"];

/// What a matrix can be for.
const MATRICES: [ParamClass; 5] =
    [ParamClass::QueryOrKey, ParamClass::Matrix, ParamClass::Embedding, ParamClass::TiedEmbedding, ParamClass::Head];

impl OptimizerConfig {
    /// Every mistake in its numbers.
    pub fn problems(&self, context: &OptimizerContext) -> Problems {
        let mut problems = Problems::default();
        let reason = "must be 0 to 1; 1e-4 to 1e-2 is usual, 0 trains nothing";
        problems.need((0.0..=1.0).contains(&self.lr), "optimizer.lr", number(self.lr), reason);
        (self.name.info().problems)(self, context, &mut problems);
        self.weight_decay_problems(&mut problems);
        let (most, reason) = (self.grad_clip, "must be 0 (off) or a finite number above 0; 1 is usual");
        problems.need((0.0..f64::INFINITY).contains(&most), "optimizer.grad_clip", number(most), reason);
        self.variant_problems(&mut problems);
        if !self.name.is_adam_like() {
            let reason = "replays rounding errors through Adam's momentum; set it to false or optimizer.name=\"adamw\"";
            problems.need(!context.state.feedback, "storage.feedback", true, reason);
        }
        problems
    }

    /// Adam's decays and eps, of a rule that reads them.
    pub(super) fn adam_problems(&self, problems: &mut Problems) {
        problems.decay("optimizer.beta1", self.beta1);
        problems.decay("optimizer.beta2", self.beta2);
        problems.positive("optimizer.eps", self.eps, 1.0, "; 1e-8 is usual");
    }

    /// A sparse embedding, of a rule that can leave rows out.
    pub(super) fn embedding_problems(&self, context: &OptimizerContext, problems: &mut Problems) {
        let reason = "leaves out rows without a gradient, and a tied head gives one to every row; set it to \"dense\" or \
                      model.tied=false";
        let sparse = self.embedding == EmbeddingUpdate::Sparse;
        problems.need(!(sparse && context.tied), "optimizer.embedding", "\"sparse\"", reason);
    }

    fn weight_decay_problems(&self, problems: &mut Problems) {
        let &OptimizerConfig { lr, weight_decay, .. } = self;
        let reason = "must be a finite number, 0 or more";
        let sound = weight_decay >= 0.0 && weight_decay.is_finite();
        problems.need(sound, "optimizer.weight_decay", number(weight_decay), reason);
        // At lr * decay = 1 a step erases the weights, beyond it flips their signs.
        let erases = sound && lr > 0.0 && lr <= 1.0 && lr * weight_decay >= 1.0;
        let reason = format_args!("times optimizer.lr = {lr} must stay below 1, or one step erases the weights");
        problems.need(!erases, "optimizer.weight_decay", number(weight_decay), reason);
    }

    fn variant_problems(&self, problems: &mut Problems) {
        let known = self.name.info().variants;
        let words: Vec<String> = known.iter().map(|variant| format!("{:?}", variant.name())).collect();
        let reason = match known {
            [_] => format!("is no form of {}, which has one only; remove the key", self.name.info().title),
            _ => format!("is no form of {}; it has {}", self.name.info().title, words.join(" and ")),
        };
        let found = format_args!("{:?}", self.variant.name());
        problems.need(known.contains(&self.variant), "optimizer.variant", found, reason);
    }

    /// Whether the state of any matrix is another where it is to be stored as `a` says than as `b` says.
    pub fn tells_apart(&self, a: StateConfig, b: StateConfig) -> bool {
        let (a, b) = (self.groups(a), self.groups(b));
        let shape = GroupedShape::new(4096, 4096, 64);
        MATRICES.into_iter().any(|class| {
            let param = ParamInfo { class, shape, head_dim: 64 };
            a.declare(&param) != b.declare(&param)
        })
    }

    /// Keys that the rule does not read but that hold something else than by default: they would be ignored in silence.
    /// Files of earlier versions may have such keys, so they are asked for of new configurations only.
    pub fn unread(&self) -> Problems {
        let mut problems = Problems::default();
        let usual = OptimizerConfig::of(self.name);
        let values = |config: &OptimizerConfig| match serde_json::to_value(config) {
            Ok(serde_json::Value::Object(values)) => values,
            _ => unreachable!("a configuration is written as a table"),
        };
        let (found, usual) = (values(self), values(&usual));
        for (key, value) in &found {
            let ignored = !COMMON.contains(&key.as_str()) && !self.name.reads(key) && usual.get(key) != Some(value);
            // JSON has no word for infinity and NaN.
            let found = if value.is_null() { "inf or nan".to_owned() } else { value.to_string() };
            problems.need(!ignored, &format!("optimizer.{key}"), found, UnreadBy(key, self.name));
        }
        problems
    }
}

/// Says who reads a key that a rule does not read.
struct UnreadBy<'a>(&'a str, Rule);

impl std::fmt::Display for UnreadBy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let readers: Vec<Rule> = Rule::ALL.iter().copied().filter(|rule| rule.reads(self.0)).collect();
        let titles: Vec<&str> = readers.iter().map(|rule| rule.info().title).collect();
        let list = match titles.as_slice() {
            [one] => (*one).to_owned(),
            [most @ .., last] => format!("{} and {last}", most.join(", ")),
            [] => unreachable!("a key that no rule reads"),
        };
        let (title, name) = (self.1.info().title, readers[0].name());
        write!(f, "is read by {list}, not by {title}; remove the key or set optimizer.name={name:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Moment, SecondMoment};
    use crate::optim::{AdjustLr, Variant};

    fn context() -> OptimizerContext {
        let state = StateConfig { m: Moment::Int4, v: SecondMoment::Int4, feedback: false };
        OptimizerContext { state, tied: false, smallest_side: 128 }
    }

    #[test]
    fn the_published_numbers_of_every_rule_are_sound() {
        for &rule in Rule::ALL {
            for preset in ["", "60m", "130m", "350m", "1b", "3b", "7b"] {
                let config = OptimizerConfig { name: rule, ..OptimizerConfig::default() }.published(preset);
                // A rank may be that of a large model.
                let context = OptimizerContext { smallest_side: 4096, ..context() };
                assert_eq!(config.problems(&context), Problems::default(), "{rule:?} {preset}");
                assert_eq!(config.unread(), Problems::default(), "{rule:?} {preset}");
            }
        }
    }

    #[test]
    fn every_key_is_read_by_a_rule_and_every_key_that_a_rule_reads_exists() {
        let keys = [
            OptimizerConfig::default(),
            OptimizerConfig { momentum: 0.1, nesterov: true, adam_lr: 0.1, ..OptimizerConfig::default() },
            OptimizerConfig { embedding: EmbeddingUpdate::Sparse, ..OptimizerConfig::default() },
            OptimizerConfig { ns_steps: 5, adjust_lr: AdjustLr::MatchRmsAdamw, ..OptimizerConfig::default() },
            OptimizerConfig { scale_front: true, projection: Moment::Int4, ..OptimizerConfig::of(Rule::Galore) },
            OptimizerConfig::of(Rule::Adafactor),
        ];
        let keys: std::collections::BTreeSet<String> = keys
            .iter()
            .flat_map(|config| serde_json::to_value(config).unwrap().as_object().unwrap().clone())
            .map(|(key, _)| key)
            .collect();
        for key in keys.iter().filter(|key| !COMMON.contains(&key.as_str())) {
            assert!(Rule::ALL.iter().any(|rule| rule.reads(key)), "{key}");
        }
        for key in Rule::ALL.iter().flat_map(|rule| rule.info().keys) {
            assert!(keys.contains(*key), "{key}");
        }
    }

    #[test]
    fn a_key_that_the_rule_does_not_read_is_refused() {
        let config = OptimizerConfig { gamma1: 0.5, ..OptimizerConfig::of(Rule::Adamw) };
        let found = config.unread().0;
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "optimizer.gamma1 = 0.5: is read by Stable-SPAM, not by AdamW; remove the key or set \
             optimizer.name=\"stable-spam\""
        );
        let config = OptimizerConfig { variant: Variant::Paper, ..OptimizerConfig::of(Rule::Sgd) };
        assert_eq!(
            config.problems(&context()).0[0].to_string(),
            "optimizer.variant = \"paper\": is no form of SGD; it has \"standard\" and \"reference\""
        );
    }
}
