//! A LLaMA: what parameters it has, where they and the activations lie, forward and backward.
//!
//! Layers stand in files of their own, each with its forward and its backward side by side: [`Linear`], [`Norm`],
//! [`Attention`], [`Mlp`], [`Block`]; `llama.rs` and `loss.rs` put them together.

mod activations;
mod adapter;
mod attention;
mod batch;
mod block;
mod bottleneck;
mod config;
mod context;
mod embedding;
mod ensemble;
mod experts;
mod flops;
mod generate;
mod grad_sink;
mod greedy;
mod head;
mod init;
mod linear;
mod llama;
mod loss;
mod low_rank;
mod magnitude;
mod mlp;
mod norm;
mod offload;
mod owners;
mod params;
mod prefix;
mod rope;
mod settings;
mod spec;
mod storage;

pub use activations::{Activations, BlockActs, GradBuffers, Int4Rows};
pub use adapter::{
    AdapterConfig, AdapterKind, AdapterParam, AdapterPart, AdapterPlace, AdapterRows, AdapterScale, AdapterSite,
    AdapterUse, AdapterWeights, LowRankSite, MatrixSite, OFFLINE,
};
pub use attention::Attention;
pub use batch::{Batch, Purpose};
pub use block::Block;
pub use bottleneck::{Bottleneck, BottleneckActs};
pub use config::{MOST_ELEMENTS, ModelConfig, RopeScaling};
pub use embedding::EmbeddingPair;
pub use ensemble::{Ensemble, EnsembleLosses, ExpertLogits, Posterior, TokenScore};
pub use generate::{Generator, Sampling};
pub use grad_sink::{Apply, Gradients};
pub(crate) use init::initialize_but;
pub use init::{fill, initialize};
pub use linear::Linear;
pub use llama::BlockWatch;
pub use low_rank::{LowRankActs, LowRankPair};
pub use magnitude::{Magnitude, MagnitudeActs};
pub use mlp::Mlp;
pub use norm::Norm;
pub use offload::Offloaded;
pub use params::{Params, READ_PLANES, place as place_param};
pub use prefix::Prefix;
pub use rope::rope_factor;
pub use settings::{
    ActivationCheckpointing, ActivationConfig, ActivationQuant, Execution, GradBuffer, GradCompute, Offload,
    OffloadConfig, SHORTEST_MICRO_SEQUENCE, Settings, Trainable,
};
pub use spec::{BlockParam, Init, ParamKind, ParamSpec, param_specs};
pub use storage::{Scheme, StorageConfig, TableStorage, Weights};

use crate::backend::{Backend, DeviceInfo, Param};
use crate::memory::Plan;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A model placed in an arena: spans only, so it is cheap to clone and holds no numbers.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it was placed for.
    pub settings: Settings,
    /// What is known of its parameters, in the order of the file.
    pub specs: Vec<ParamSpec>,
    /// Parameters as operations find them, once they were fetched.
    pub params: Params,
    /// Parameters as they lie between steps, in the order of the specs: the same places, unless they are offloaded.
    pub stored: Vec<Param>,
    /// What is prefetched.
    pub offloaded: Offloaded,
    /// Activations and scratch of a step.
    pub acts: Activations,
    /// Those of sampling, for each expert if there are two; none if it was placed for no text.
    pub sampling: Vec<Arc<Activations>>,
    /// Blocks that forward or backward went through so far: what a long step is watched by from another thread. On a GPU
    /// they are issued, not done.
    pub passes: Arc<AtomicU64>,
    /// The lowest block that backward goes through; as many as there are blocks if it ends at the head.
    pub lowest: usize,
    /// Blocks as the passes of their backward read them: copies of their weights; none if one pass is enough.
    frozen: Vec<Block>,
}

impl Model {
    /// Places a model with all its parameters in a plan: batches of up to `tokens` tokens in sequences of up to `keys`.
    pub fn place(plan: &mut Plan, settings: &Settings, tokens: usize, keys: usize, backend: &dyn DeviceInfo) -> Self {
        let specs = param_specs(settings);
        let placed = offload::place(plan, settings, &specs, backend);
        let model = Self::assemble(plan, settings, specs, placed.used, (tokens, keys), backend);
        Self { stored: placed.stored, offloaded: placed.offloaded, ..model }
    }

    /// The same around a base whose parameters lie in a mapped file, `base`, which holds nothing but what products read;
    /// only adapters and activations are planned.
    ///
    /// # Panics
    /// If `base` does not have all of the base's parameters.
    pub fn place_on(
        plan: &mut Plan,
        settings: &Settings,
        base: &[Param],
        (tokens, keys): (usize, usize),
        backend: &dyn DeviceInfo,
    ) -> Self {
        let specs = param_specs(settings);
        let adapters = offload::place_adapters(plan, &specs);
        let placed = base.iter().copied().chain(adapters).collect();
        Self::assemble(plan, settings, specs, placed, (tokens, keys), backend)
    }

    /// The same around parameters that lie somewhere already, given in the order of `specs`, which are those of
    /// `settings`.
    ///
    /// # Panics
    /// If `placed` does not have a parameter for each spec.
    pub fn assemble(
        plan: &mut Plan,
        settings: &Settings,
        specs: Vec<ParamSpec>,
        placed: Vec<Param>,
        (tokens, keys): (usize, usize),
        backend: &dyn DeviceInfo,
    ) -> Self {
        let acts = activations::place(plan, settings, &specs, tokens, keys, backend);
        let mut sampling = || activations::place_sampling(plan, settings, &specs, (&acts, keys), backend).map(Arc::new);
        let writers = settings.writers();
        let sampling = (0..writers).filter_map(|_| sampling()).collect();
        let params = Params::arrange(settings, &specs, placed.clone());
        let lowest = activations::lowest(&specs);
        let copies = &acts.grads.frozen_copy;
        let frozen = if copies.is_empty() { Vec::new() } else { params.blocks_at(&specs, copies) };
        let settings = settings.clone();
        let passes = Arc::default();
        let offloaded = Offloaded::default();
        Self { settings, specs, params, stored: placed, offloaded, acts, sampling, passes, lowest, frozen }
    }

    /// Fills what depends on the configuration, or on the base of an adapter; call once the backend has both.
    pub fn prepare(&self, backend: &mut dyn Backend) {
        rope::fill_rope(&self.acts, &self.settings.model, backend);
        magnitude::measure(self, backend);
    }
}
