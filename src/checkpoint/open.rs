//! File to model: for evaluation and sampling, with adapters or without.

use super::load::Checkpoint;
use super::planes::weight_planes;
use crate::backend::{Backend, Compute, DeviceInfo};
use crate::error::{BackendError, CheckpointError};
use crate::memory::Plan;
use crate::model::{
    AdapterKind, AdapterRows, AdapterUse, Ensemble, Model, ModelConfig, ParamKind, Settings, Trainable, param_specs,
};

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
    /// How the two experts predict, where an adapter has an offline module.
    ensemble: Option<Ensemble>,
    compute: Compute,
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
        let stages = adapters.iter().filter_map(|(adapter, _)| adapter.meta.continual);
        let ensemble = stages.filter(|stage| stage.offline.is_some()).map(|stage| stage.ensemble).next();
        Ok(Self { base, adapters, ensemble, compute: base.meta.activations.compute })
    }

    /// How its two experts predict, the online and the offline module of an adapter; nothing if there is one.
    pub fn ensemble(&self) -> Option<Ensemble> {
        self.ensemble
    }

    /// The same with another ensemble, or one of the experts alone; nothing changes if there is one anyway.
    pub fn with_ensemble(self, ensemble: Ensemble) -> Self {
        Self { ensemble: self.ensemble.map(|_| ensemble), ..self }
    }

    /// The same with forward products in another arithmetic than that in which the model was trained.
    pub fn with_compute(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// Whether both experts are computed.
    pub fn has_experts(&self) -> bool {
        self.ensemble.is_some_and(|ensemble| ![Ensemble::Online, Ensemble::Offline].contains(&ensemble))
    }

    /// The adapters' modules, each with the number of its file.
    fn uses(&self) -> Vec<(usize, AdapterUse)> {
        let mut uses = Vec::new();
        for (file, (adapter, scale)) in self.adapters.iter().enumerate() {
            let config = adapter.meta.adapter.clone().expect("checked when it was added");
            let online = AdapterUse { scale: *scale, ..AdapterUse::whole(config) };
            let offline = online.offline();
            let part = |index| AdapterRows::Part { index, of: 2 };
            match self.ensemble.filter(|_| adapter.meta.has_offline()) {
                None | Some(Ensemble::Online) => uses.push((file, online)),
                Some(Ensemble::Offline) => uses.push((file, AdapterUse { rows: AdapterRows::All, ..offline })),
                Some(_) => {
                    uses.push((file, AdapterUse { rows: part(0), ..online }));
                    uses.push((file, AdapterUse { rows: part(1), ..offline }));
                }
            }
        }
        uses
    }

    /// The shape of the model.
    pub fn shape(&self) -> &'a ModelConfig {
        &self.base.meta.model
    }

    /// Plans the model for evaluation and sampling; with two experts each has so many tokens. A backend that can reads the base's weights in the mapped file, and
    /// its arena holds adapters and activations only.
    pub fn place(&self, device: &dyn DeviceInfo, capacity: Capacity) -> (Plan, Model) {
        let mut plan = Plan::default();
        let Capacity { tokens, keys, sampling, packing } = capacity;
        // The experts score the same text side by side, and write one after the other.
        let tokens = if self.has_experts() && !sampling { 2 * tokens } else { tokens };
        // No state is placed, whatever rule it is of.
        let mut settings = Settings {
            trainable: Trainable::Nothing,
            optimizer: None,
            adapters: self.uses().into_iter().map(|(_, used)| used).collect(),
            packing,
            ..self.base.meta.settings()
        };
        settings.activations.compute = self.compute;
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
        backend.check_compute(self.compute)?;
        let (plan, model) = self.place(backend, capacity);
        backend.allocate(plan.total(), Some(self.base.map().clone()), model.acts.scratch)?;
        let files: Vec<usize> = self.uses().into_iter().map(|(file, _)| file).collect();
        for (entry, param) in model.specs.iter().zip(model.params.all()) {
            let file = match entry.kind {
                ParamKind::Adapter(param) => &self.adapters[files[param.adapter]].0,
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
