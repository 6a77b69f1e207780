//! A LLaMA: one table of parameters, where they and the activations lie, forward and backward.

mod backward;
mod config;
mod forward;
mod generate;
mod init;
mod params;
mod residence;
mod rope;
mod settings;
mod storage;
mod table;
mod work;

pub use backward::Apply;
pub use config::{ModelConfig, RopeScaling};
pub use forward::{Pass, Purpose};
pub use generate::{Generator, Sampling};
pub use init::{fill, initialize};
pub use params::{LayerParams, Params};
pub use residence::Streams;
pub use rope::stretch;
pub use settings::{
    ActivationCheckpointing, ActivationConfig, ActivationQuant, Execution, GradBuffer, Offload, OffloadConfig,
    SHORTEST_PARTED, Settings,
};
pub use storage::{Scheme, StorageConfig, TableStorage, Weights};
pub use table::{Entry, Role, table};
pub use work::{GradWork, LayerWork, Mode, Packed, Work};

use crate::backend::{Backend, DeviceInfo, Param};
use crate::memory::Plan;

/// A model placed in an arena: spans only, so it is cheap to clone and holds no numbers.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it was placed for.
    pub settings: Settings,
    /// Parameters as operations find them, once they were fetched.
    pub params: Params,
    /// Parameters as they lie between steps: the same places, unless they are at home and have to be fetched.
    pub stored: Params,
    /// What is fetched.
    pub streams: Streams,
    /// Activations and scratch of a step.
    pub work: Work,
}

impl Model {
    /// Places a model with all its parameters in a plan: passes of up to `tokens` tokens in sequences of up to
    /// `keys`.
    pub fn place(
        plan: &mut Plan,
        settings: &Settings,
        mode: Mode,
        tokens: usize,
        keys: usize,
        backend: &dyn DeviceInfo,
    ) -> Self {
        let placed = residence::place(plan, settings, mode, backend);
        let stored = Params::arrange(&table(settings), &placed.stored);
        let model = Self::assemble(plan, settings, &placed.used, mode, tokens, keys, backend);
        Self { stored, streams: placed.streams, ..model }
    }

    /// The same around parameters that lie somewhere already, given in the table's order.
    ///
    /// # Panics
    /// If `placed` is not as long as the table.
    pub fn assemble(
        plan: &mut Plan,
        settings: &Settings,
        placed: &[Param],
        mode: Mode,
        tokens: usize,
        keys: usize,
        backend: &dyn DeviceInfo,
    ) -> Self {
        let entries = table(settings);
        let params = Params::arrange(&entries, placed);
        let work = work::place(plan, settings, &entries, mode, tokens, keys, backend);
        Self { settings: settings.clone(), stored: params.clone(), params, streams: Streams::default(), work }
    }

    /// Fills what depends on the configuration alone; call once the backend has its arena.
    pub fn prepare(&self, backend: &mut dyn Backend) {
        rope::fill_rope(&self.work, &self.settings.model, backend);
    }
}
