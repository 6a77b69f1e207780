//! What is known of the low-rank rules: keys, published numbers, and for which parameters they are.

use super::{Apollo, Companion, GaLore, LowRank, Norms, Residual};
use crate::backend::SecondMoment;
use crate::error::Problems;
use crate::optim::config::signed;
use crate::optim::{Groups, Optimizer, OptimizerConfig, OptimizerContext, ParamClass, ParamInfo, RuleInfo};
use crate::optim::{StateConfig, Variant};

const VARIANTS: &[Variant] = &[Variant::Standard, Variant::Reference, Variant::Paper];

/// What is known of GaLore.
pub(crate) const GALORE: RuleInfo = RuleInfo {
    title: "GaLore",
    keys: &["rank", "scale", "update_proj_gap", "projection", "beta1", "beta2", "eps"],
    own_v: true,
    variants: VARIANTS,
    publish: |config, preset| {
        common(config, preset, [32, 128, 256, 256, 512, 1024]);
        config.scale = 0.25;
    },
    problems,
    groups: |config, state| subspace(config, state, Residual::Dropped),
};

/// What is known of Fira.
pub(crate) const FIRA: RuleInfo = RuleInfo {
    title: "Fira",
    keys: GALORE.keys,
    own_v: true,
    variants: VARIANTS,
    publish: |config, preset| {
        common(config, preset, [32, 128, 256, 256, 512, 64]);
        config.scale = if matches!(preset, "1b" | "3b" | "7b") { 0.0625 } else { 0.25 };
    },
    problems,
    groups: |config, state| subspace(config, state, Residual::Scaled),
};

/// What is known of APOLLO.
pub(crate) const APOLLO: RuleInfo = RuleInfo {
    title: "APOLLO",
    keys: &["rank", "scale", "scale_front", "update_proj_gap", "beta1", "beta2", "eps"],
    own_v: true,
    variants: VARIANTS,
    publish: |config, preset| {
        common(config, preset, [32, 128, 192, 256, 256, 256]);
        (config.lr, config.update_proj_gap, config.scale) = (0.01, 200, 1.0);
    },
    problems,
    groups: |config, state| random(config, state, Norms::Channels, config.rank as usize),
};

/// What is known of APOLLO-Mini.
pub(crate) const APOLLO_MINI: RuleInfo = RuleInfo {
    title: "APOLLO-Mini",
    keys: &["scale", "scale_front", "update_proj_gap", "beta1", "beta2", "eps"],
    own_v: true,
    variants: VARIANTS,
    publish: |config, preset| {
        common(config, preset, [0; 6]);
        (config.lr, config.update_proj_gap) = (0.01, 200);
        config.scale = if preset == "130m" { 192.0 } else { 128.0 };
        config.scale_front = matches!(preset, "60m" | "130m");
    },
    problems,
    groups: |config, state| random(config, state, Norms::Tensor, 1),
};

/// The published numbers for 60m to 1b and 7b; 3b, which is not published, has those of 1b, and any other model ranks for
/// matrices of the quick-start's size.
fn common(config: &mut OptimizerConfig, preset: &str, ranks: [u64; 6]) {
    let size = match preset {
        "60m" => 1,
        "130m" => 2,
        "350m" => 3,
        "1b" | "3b" => 4,
        "7b" => 5,
        _ => 0,
    };
    (config.eps, config.rank) = (1e-6, ranks[size]);
    (config.lr, config.update_proj_gap) = if size == 5 { (0.005, 500) } else { (0.01, 200) };
}

fn problems(config: &OptimizerConfig, context: &OptimizerContext, problems: &mut Problems) {
    config.adam_problems(problems);
    if config.name.reads("rank") {
        let (rank, most) = (config.rank, context.smallest_side as u64);
        let reason =
            format_args!("must be 1 to {most}, the smallest side of the matrices in blocks; a quarter of it is usual");
        problems.need((1..=most).contains(&rank), "optimizer.rank", rank, reason);
    }
    problems.positive("optimizer.scale", config.scale, 1e6, "; see docs/optimizers.md");
    let gap = config.update_proj_gap;
    problems.need(gap >= 1, "optimizer.update_proj_gap", gap, "must be 1 step or more; 200 is usual");
    let word = match context.state.v {
        SecondMoment::Row => "\"row\"",
        SecondMoment::Factored => "\"factored\"",
        SecondMoment::F32 | SecondMoment::Int8 | SecondMoment::Int4 => return,
    };
    let reason = format_args!(
        "is a mean over many elements, and {} needs each element's own; set it to \"int4\"",
        config.name.info().title
    );
    problems.need(false, "storage.v", word, reason);
}

fn subspace(config: &OptimizerConfig, state: StateConfig, residual: Residual) -> Groups {
    let common = LowRank::new(config, state, config.rank as usize);
    grouped(Box::new(GaLore::new(common, residual, config.scale, signed(config.projection))), config, state)
}

fn random(config: &OptimizerConfig, state: StateConfig, norms: Norms, rank: usize) -> Groups {
    let common = LowRank::new(config, state, rank);
    grouped(Box::new(Apollo::new(common, norms, config.scale, config.scale_front)), config, state)
}

/// The rule for the matrices of blocks, and its companion for everything else.
fn grouped(rule: Box<dyn Optimizer>, config: &OptimizerConfig, state: StateConfig) -> Groups {
    let OptimizerConfig { beta1, beta2, eps, weight_decay, variant, .. } = *config;
    let freezes = variant == Variant::Standard;
    Groups::new(vec![rule, Box::new(Companion { beta1, beta2, eps, weight_decay, freezes, state })], group)
}

fn group(param: &ParamInfo) -> u8 {
    u8::from(!matches!(param.class, ParamClass::QueryOrKey | ParamClass::Matrix))
}

impl LowRank {
    /// With the numbers of a configuration.
    fn new(config: &OptimizerConfig, state: StateConfig, rank: usize) -> Self {
        let OptimizerConfig { beta1, beta2, eps, weight_decay, variant, .. } = *config;
        Self { rank, gap: config.update_proj_gap, beta1, beta2, eps, weight_decay, variant, state }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Moment;
    use crate::optim::Rule;

    fn found(config: &OptimizerConfig, v: SecondMoment) -> Vec<String> {
        let state = StateConfig { m: Moment::Int4, v, feedback: false };
        let context = OptimizerContext { state, tied: false, smallest_side: 100 };
        config.problems(&context).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_projection_cannot_be_is_refused() {
        let galore = OptimizerConfig::of(Rule::Galore);
        assert!(found(&galore, SecondMoment::Int4).is_empty());
        let bad = OptimizerConfig { rank: 101, scale: 0.0, update_proj_gap: 0, ..galore };
        assert_eq!(
            found(&bad, SecondMoment::Factored),
            [
                "optimizer.rank = 101: must be 1 to 100, the smallest side of the matrices in blocks; a quarter of it is \
                 usual",
                "optimizer.scale = 0.0: must be above 0 and at most 1000000; see docs/optimizers.md",
                "optimizer.update_proj_gap = 0: must be 1 step or more; 200 is usual",
                "storage.v = \"factored\": is a mean over many elements, and GaLore needs each element's own; set it to \
                 \"int4\"",
            ]
        );
    }

    #[test]
    fn mini_has_a_rank_of_its_own() {
        let mini = OptimizerConfig::of(Rule::ApolloMini);
        assert!(found(&mini, SecondMoment::Int4).is_empty());
        assert!(found(&OptimizerConfig::of(Rule::Apollo), SecondMoment::Int4).is_empty());
        let unread = OptimizerConfig { rank: 4, ..mini }.unread().0;
        assert_eq!(unread.len(), 1, "{unread:?}");
    }
}
