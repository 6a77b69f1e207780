//! Defaults: an absent table or key means the quick-start's value.

use super::*;

impl Default for Model {
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

impl Default for Storage {
    fn default() -> Self {
        Self {
            weights: Weights::Int4,
            embedding: TableStorage::Bf16,
            head: TableStorage::Bf16,
            group: 64,
            scheme: Scheme::Symmetric,
            residue: true,
            feedback: false,
            m: Moment::Int4,
            v: SecondMoment::Int4,
        }
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            name: Rule::StableSpam,
            lr: 4e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            variant: Variant::Paper,
            gamma1: 0.7,
            gamma2: 0.9,
            gamma3: 0.999,
            reset_interval: 1000,
            momentum_decay: 0,
            momentum_decay_floor: 0.5,
            spike_threshold: 5000.0,
            spike_quiet: 20,
            reset_warmup: 150,
            density: 1.0,
            embedding: EmbeddingUpdate::Dense,
        }
    }
}

impl Default for Train {
    fn default() -> Self {
        Self {
            steps: 400,
            batch: 16,
            micro_batch: 0,
            sequence: 128,
            warmup: 40,
            schedule: Schedule::Cosine,
            final_lr: 0.1,
            eval_every: 100,
            eval_sequences: 0,
            checkpoint_every: 200,
            keep: 3,
            milestone_every: 0,
            sample_every: 0,
            sample_prompt: "The ".into(),
            sample_tokens: 200,
            max_nonfinite: 10,
            overfit: false,
        }
    }
}

impl Default for Run {
    fn default() -> Self {
        Self {
            dir: "runs/quickstart".into(),
            seed: 1,
            threads: 0,
            activations: KeptActivations::Auto,
            gradient: GradientBuffer::Auto,
            weights: Residence::Auto,
            state: Residence::Auto,
            logits_mib: 0,
        }
    }
}
