//! File to model: for evaluation and sampling, with adapters or without.

use super::load::Checkpoint;
use super::planes::weight_planes;
use crate::backend::{Backend, DeviceInfo};
use crate::error::{BackendError, CheckpointError};
use crate::memory::Plan;
use crate::model::{AdapterKind, AdapterUse, Model, ModelConfig, ParamKind, Settings, Trainable, param_specs};
use std::sync::Arc;

/// What an opened model can compute at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Tokens of a batch at most.
    pub tokens: usize,
    /// Tokens of a sequence at most, earlier ones that are cached included.
    pub keys: usize,
    /// Whether text is sampled: keys and values are then cached.
    pub sampling: bool,
    /// Whether a row may hold several samples, each with attention of its own.
    pub packing: bool,
}

/// A model and the adapters that are added to it.
pub struct Adapted<'a> {
    base: &'a Checkpoint,
    adapters: &'a [(Checkpoint, f32)],
}

impl<'a> Adapted<'a> {
    /// A model with adapters, each times a number; they add up.
    ///
    /// # Errors
    /// If `base` is an adapter, one of the adapters is none or was trained on another base, or two are prefixes.
    pub fn new(base: &'a Checkpoint, adapters: &'a [(Checkpoint, f32)]) -> Result<Self, CheckpointError> {
        if base.meta.adapter.is_some() {
            return Err(CheckpointError::AdapterAlone { path: base.path().into() });
        }
        adapters.iter().try_for_each(|(adapter, _)| base.check_adapter(adapter))?;
        let is_prefix =
            |file: &Checkpoint| file.meta.adapter.as_ref().is_some_and(|adapter| adapter.kind == AdapterKind::Prefix);
        let mut prefixes = adapters.iter().map(|(adapter, _)| adapter).filter(|adapter| is_prefix(adapter));
        if let (Some(first), Some(second)) = (prefixes.next(), prefixes.next()) {
            let (path, other) = (second.path().into(), first.path().into());
            return Err(CheckpointError::TwoPrefixes { path, other });
        }
        Ok(Self { base, adapters })
    }

    /// The shape of the model.
    pub fn shape(&self) -> &'a ModelConfig {
        &self.base.meta.model
    }

    /// Plans the model for evaluation and sampling. A backend that can reads the base's weights in the mapped file, and
    /// its arena holds adapters and activations only.
    pub fn place(&self, device: &dyn DeviceInfo, capacity: Capacity) -> (Plan, Model) {
        let mut plan = Plan::default();
        let Capacity { tokens, keys, sampling, packing } = capacity;
        let used = |(adapter, scale): &(Checkpoint, f32)| {
            let config = adapter.meta.adapter.clone().expect("checked when it was added");
            AdapterUse { config: Arc::new(config), scale: *scale }
        };
        // No state is placed, whatever rule it is of.
        let mut settings = Settings {
            trainable: Trainable::Nothing,
            optimizer: None,
            adapters: self.adapters.iter().map(used).collect(),
            packing,
            ..self.base.meta.settings()
        };
        settings.execution.sampled = if sampling { keys } else { 0 };
        let model = if device.reads_mapped() {
            let specs = param_specs(&settings);
            let base = specs.iter().filter(|spec| !spec.kind.is_adapter());
            let mapped: Vec<_> = base.map(|spec| self.base.mapped(spec)).collect();
            Model::place_on(&mut plan, &settings, &mapped, (tokens, keys), device)
        } else {
            Model::place(&mut plan, &settings, tokens, keys, device)
        };
        (plan, model)
    }

    /// The same, ready to compute.
    ///
    /// # Errors
    /// If the backend does not have the planned memory.
    pub fn open(&self, backend: &mut dyn Backend, capacity: Capacity) -> Result<Model, BackendError> {
        let shape = self.shape();
        backend.check_heads(shape.head_dim(), shape.qk_norm)?;
        let (plan, model) = self.place(backend, capacity);
        backend.allocate(plan.total(), Some(self.base.map().clone()), model.acts.scratch)?;
        for (entry, param) in model.specs.iter().zip(model.params.all()) {
            let file = match entry.kind {
                ParamKind::Adapter(param) => &self.adapters[param.adapter].0,
                _ if backend.reads_mapped() => continue,
                _ => self.base,
            };
            for (from, to) in weight_planes(&file.mapped(entry)).zip(weight_planes(param)) {
                backend.upload(&file.map()[from.span.offset..][..from.span.bytes], to.span);
            }
        }
        model.prepare(backend);
        Ok(model)
    }
}

/// A checkpoint's model without adapters, ready to compute.
///
/// # Errors
/// If the backend does not have the planned memory.
///
/// # Panics
/// If the file is an adapter.
pub fn open_model(
    checkpoint: &Checkpoint,
    backend: &mut dyn Backend,
    capacity: Capacity,
) -> Result<Model, BackendError> {
    Adapted::new(checkpoint, &[]).expect("a model of its own").open(backend, capacity)
}
