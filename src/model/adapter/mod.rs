//! Adapters: small trained tensors beside the frozen weights of a base model.
//!
//! [`AdapterConfig`] is `[adapter]`; [`LowRankSite`] is a matrix that a low-rank adapter stands beside. The tensors of any
//! adapter are one list, in the order of its file, see [`AdapterParam`].

mod config;
mod pattern;
mod problems;
mod sites;
mod specs;

pub use config::{AdapterConfig, AdapterKind, AdapterPlace, AdapterScale, AdapterWeights};
pub use sites::LowRankSite;
pub(super) use specs::specs;
pub use specs::{AdapterParam, AdapterPart, AdapterSite};

use std::sync::Arc;

/// An adapter that a model is placed with.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterUse {
    /// What it is.
    pub config: Arc<AdapterConfig>,
    /// What it adds is multiplied by this; at 0 the model is the base, bit for bit.
    pub scale: f32,
}

impl AdapterUse {
    /// An adapter as it was trained.
    pub fn whole(config: AdapterConfig) -> Self {
        Self { config: Arc::new(config), scale: 1.0 }
    }
}
