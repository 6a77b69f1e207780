//! The rules that a configuration can name. A rule's own file says what is known of it ([`RuleInfo`]); here it gets its
//! name.

use super::low_rank::info as low_rank;
use super::{Groups, OptimizerConfig, StateConfig, adafactor, adam, adam_mini, lion, muon, scale, sgd};
use crate::error::Problems;
use serde::{Deserialize, Serialize};

/// What is known of a rule.
pub struct RuleInfo {
    /// What messages call it.
    pub title: &'static str,
    /// The keys of `[optimizer]` that it reads beside those of every rule (`name`, `lr`, `weight_decay`, `grad_clip`).
    pub keys: &'static [&'static str],
    /// Whether it needs each element's own second moment where it keeps any, so that means of rows or columns
    /// (`storage.v`) are no use to it.
    pub own_v: bool,
    /// Its forms, the usual one first.
    pub variants: &'static [Variant],
    /// Sets its published numbers, where the quick-start's are others; the name of a preset, without `-compact`, tells the
    /// size of the model.
    pub publish: fn(&mut OptimizerConfig, &str),
    /// Every mistake in the values of the keys that it reads.
    pub problems: fn(&OptimizerConfig, &OptimizerContext, &mut Problems),
    /// The rule itself, for all parameters.
    pub groups: fn(&OptimizerConfig, StateConfig) -> Groups,
}

/// What an optimizer is going to be used for, as far as its checks need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptimizerContext {
    /// How `[storage]` wants state to be stored.
    pub state: StateConfig,
    /// Whether the embedding is the head too.
    pub tied: bool,
    /// The smallest side of all matrices in blocks.
    pub smallest_side: usize,
}

/// Readings of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// As the paper means it: Stable-SPAM's resets, SCALE's norms, the low-rank rules' formulas.
    Paper,
    /// As the published code behaves in every detail: Stable-SPAM at and after a reset, other rules where a gradient is all
    /// zero, Muon in the roundings of its products too.
    Reference,
    /// As the published code, except that an all-zero gradient leaves a tensor's state as it is.
    Standard,
}

impl Variant {
    /// As a configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Reference => "reference",
            Self::Standard => "standard",
        }
    }
}

/// Declares the rules, each with its documentation, its variant and what is known of it.
macro_rules! rules {
    ($($(#[$doc:meta])+ $rule:ident: $info:path,)+) => {
        /// The update rules.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Rule {
            $($(#[$doc])+ $rule,)+
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$rule),+];

            /// What is known of it.
            pub fn info(self) -> &'static RuleInfo {
                match self {
                    $(Self::$rule => &$info,)+
                }
            }
        }
    };
}

rules! {
    /// Stable-SPAM (arXiv 2502.17055).
    StableSpam: adam::STABLE_SPAM,
    /// SPAM (arXiv 2501.06842).
    Spam: adam::SPAM,
    /// Adam with decoupled weight decay.
    Adamw: adam::ADAMW,
    /// Adam; weight decay is added to the gradient.
    Adam: adam::ADAM,
    /// Stochastic gradient descent, with momentum if `momentum` is above 0; weight decay is added to the gradient.
    Sgd: sgd::SGD,
    /// Lion (arXiv 2302.06675): the sign of an interpolated momentum.
    Lion: lion::LION,
    /// SCALE (arXiv 2506.16659): normalized gradients, momentum in the head only, Adam for vectors.
    Scale: scale::SCALE,
    /// Muon (<https://kellerjordan.github.io/posts/muon>): orthogonalized momentum for matrices, AdamW for all others.
    Muon: muon::MUON,
    /// Adam-mini (arXiv 2406.16793): Adam with one second moment for each row or head.
    AdamMini: adam_mini::ADAM_MINI,
    /// Adafactor (arXiv 1804.04235): second moments of rows and columns, no first moment, steps relative to the weight.
    Adafactor: adafactor::ADAFACTOR,
    /// GaLore (arXiv 2403.03507): Adam in the subspace of the gradient's largest singular values.
    Galore: low_rank::GALORE,
    /// Fira (arXiv 2410.01623): GaLore, and what the subspace leaves out, scaled alike.
    Fira: low_rank::FIRA,
    /// APOLLO (arXiv 2412.05270): the gradient, its channels scaled as Adam would scale a random projection.
    Apollo: low_rank::APOLLO,
    /// APOLLO-Mini: the same with one factor for each matrix, and a projection of rank 1.
    ApolloMini: low_rank::APOLLO_MINI,
}

impl Rule {
    /// As a configuration writes it.
    pub fn name(self) -> String {
        let name = serde_json::to_value(self).expect("a rule is written as its name");
        name.as_str().expect("a name is a text").to_owned()
    }

    /// Whether it reads a key beside those of every rule.
    pub fn reads(self, key: &str) -> bool {
        self.info().keys.contains(&key)
    }

    /// Whether it is Adam or a rule with Adam's state, made by the backend's fused pass.
    pub fn is_adam_like(self) -> bool {
        matches!(self, Self::StableSpam | Self::Spam | Self::Adamw | Self::Adam)
    }
}
