//! File to state.

use super::meta::{GENERATION_CONFIG, Meta, TOKENIZER, TOKENIZER_CONFIG};
use super::planes::{SavedState, declared, saved_state, spec, weight_planes};
use crate::backend::{Backend, Param, State, Weight};
use crate::config::{Config, Stage};
use crate::error::{CheckpointError, ContentsError};
use crate::format::{File, Fingerprint, Head, PlaneKind, Tensor, TensorSpec};
use crate::memory::{Place, Span};
use crate::model::{AdapterConfig, ParamSpec, Settings, Trainable, param_specs};
use crate::quant::PAD_NIBBLE;
use crate::store::Map;
use crate::train::{FrozenBase, Trainer};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened file: mapped, its layout checked, its metadata and tensors found to describe one model.
/// Plane checksums are checked by [`Checkpoint::verify`].
pub struct Checkpoint {
    path: PathBuf,
    map: Arc<Map>,
    head: Head,
    /// What it says about itself.
    pub meta: Meta,
}

/// The spec of a tensor in words.
fn describe(spec: &TensorSpec) -> String {
    format!("{} {} in groups of {}", spec.storage.name(), spec.shape(), spec.group)
}

impl Checkpoint {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be mapped, breaks a rule of the format, or if metadata and tensors do not fit together.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let map = Arc::new(Map::open(path)?);
        let file = File::parse(&map)
            .map_err(|source| CheckpointError::Format { path: path.into(), source: Box::new(source) })?;
        let meta =
            Meta::from_map(file.metadata()).map_err(|what| CheckpointError::Metadata { path: path.into(), what })?;
        if let Err(what) = meta.check(file.attachment(TOKENIZER).is_some()) {
            return Err(CheckpointError::Metadata { path: path.into(), what });
        }
        meta.validate().map_err(|source| CheckpointError::Config { path: path.into(), source })?;
        let head = file.into_head();
        let checkpoint = Self { path: path.into(), map, head, meta };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// Opens a file and checks the contents of all planes.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::verify`].
    pub fn open_sound(path: &Path) -> Result<Self, CheckpointError> {
        let checkpoint = Self::open(path)?;
        checkpoint.verify()?;
        Ok(checkpoint)
    }

    /// The path it was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The attached tokenizer; `None` means bytes.
    pub fn tokenizer(&self) -> Option<Vec<u8>> {
        self.file().attachment(TOKENIZER).map(<[u8]>::to_vec)
    }

    /// The file, mapped.
    pub(super) fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// The content of the attachment of this name.
    pub fn attachment(&self, name: &str) -> Option<Vec<u8>> {
        self.file().attachment(name).map(<[u8]>::to_vec)
    }

    /// What goes with the tokenizer, for every file that is made of this one.
    pub fn companions(&self) -> Vec<(&'static str, Vec<u8>)> {
        [TOKENIZER_CONFIG, GENERATION_CONFIG]
            .into_iter()
            .filter_map(|name| Some((name, self.attachment(name)?)))
            .collect()
    }

    /// The file's planes, where they lie.
    pub fn file(&self) -> File<'_> {
        File::parse(&self.map).expect("parsed before, and a mapped file is never rewritten in place")
    }

    fn contents(&self, source: ContentsError) -> CheckpointError {
        CheckpointError::Contents { path: self.path.clone(), source: Box::new(source) }
    }

    /// What tells its weights from those of other models.
    pub fn fingerprint(&self) -> Fingerprint {
        self.head.fingerprint()
    }

    /// The model as the base of an adapter.
    ///
    /// # Errors
    /// [`CheckpointError::AdapterAlone`] if it is none.
    pub fn base(&self) -> Result<FrozenBase, CheckpointError> {
        if self.meta.adapter.is_some() {
            return Err(CheckpointError::AdapterAlone { path: self.path.clone() });
        }
        let settings = Settings { trainable: Trainable::Nothing, optimizer: None, ..self.meta.settings() };
        let params = param_specs(&settings).iter().map(|spec| self.mapped(spec)).collect();
        Ok(FrozenBase { file: self.map.clone(), params, fingerprint: self.fingerprint() })
    }

    /// Whether this is the base that `adapter` was trained on.
    ///
    /// # Errors
    /// [`CheckpointError::NoAdapter`] if that is none, [`CheckpointError::OtherBase`] with both fingerprints.
    pub fn check_adapter(&self, adapter: &Self) -> Result<(), CheckpointError> {
        let Some(base) = &adapter.meta.base else {
            return Err(CheckpointError::NoAdapter { path: adapter.path.clone() });
        };
        let found = self.fingerprint().to_string();
        if self.meta.adapter.is_some() {
            return Err(CheckpointError::AdapterAlone { path: self.path.clone() });
        }
        if found == base.fingerprint {
            return Ok(());
        }
        let (path, base, expected) = (adapter.path.clone(), self.path.clone(), base.fingerprint.clone());
        Err(CheckpointError::OtherBase { path, base, expected, found })
    }

    /// Checks the contents of all planes.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        let wrong = self.file().verify().into_iter().next();
        wrong.map_or(Ok(()), |source| Err(self.contents(source)))
    }

    /// Checks the contents of the planes that products read.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn verify_weights(&self) -> Result<(), CheckpointError> {
        let wrong = self.file().verify_weights();
        wrong.map_or(Ok(()), |source| Err(self.contents(source)))
    }

    /// The described model has exactly the tensors of the file.
    fn check_tensors(&self) -> Result<(), CheckpointError> {
        let path = || self.path.clone();
        let entries = param_specs(&self.meta.settings());
        let specs: Vec<_> = entries.iter().filter(|entry| self.meta.holds(entry.kind)).map(spec).collect();
        let missing: Vec<_> = specs.iter().filter(|spec| self.head.find(&spec.name).is_none()).collect();
        if let Some(first) = missing.first() {
            return Err(CheckpointError::Missing { path: path(), name: first.name.clone(), missing: missing.len() });
        }
        for spec in &specs {
            let found = &self.tensor(&spec.name).spec;
            // Groups of state alone say nothing about the weight; whether there are any is a matter of the rule.
            let of_state = !spec.storage.is_grouped() && [0, self.meta.storage.group].contains(&(found.group as usize));
            let group = if of_state { found.group } else { spec.group };
            if *found != (TensorSpec { group, ..spec.clone() }) {
                let (found, expected) = (describe(found), describe(spec));
                return Err(CheckpointError::Shape { path: path(), name: spec.name.clone(), found, expected });
            }
        }
        let known: HashSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let names = self.head.tensors.iter().map(|tensor| tensor.spec.name.as_str());
        let surplus: Vec<&str> = names.filter(|name| !known.contains(name)).collect();
        match surplus.first() {
            Some(&name) => Err(CheckpointError::Surplus { path: path(), name: name.into(), surplus: surplus.len() }),
            None => Ok(()),
        }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.head.tensors[self.head.find(name).expect("looked up before")]
    }

    /// Puts the saved state into a trainer of the same model.
    ///
    /// # Errors
    /// If the file lacks a plane, or was saved by a run that differs in model, storage, seed or data.
    pub fn restore(&self, trainer: &mut Trainer, data: &str) -> Result<(), CheckpointError> {
        self.check_run(trainer.config(), data)?;
        self.check_base(trainer)?;
        let (model, backend) = trainer.model_and_backend();
        let held = model.specs.iter().zip(&model.stored).filter(|(entry, _)| self.meta.holds(entry.kind));
        for (entry, param) in held {
            let name = entry.kind.name();
            let tensor = self.tensor(&name);
            for plane in weight_planes(param) {
                let found = tensor.plane(plane.kind).filter(|p| p.element() == Some(plane.element));
                let range = found.map(|p| p.range()).unwrap_or_default();
                let bytes = &self.map[range.start as usize..range.end as usize];
                if bytes.len() != plane.span.bytes {
                    let (plane, bytes) = (plane.kind.name(), plane.span.bytes);
                    return Err(CheckpointError::Plane { path: self.path.clone(), name, plane, bytes });
                }
                put(backend, bytes, plane.span);
            }
            self.restore_state(tensor, param, backend)?;
        }
        trainer.set_counters(self.meta.counters);
        trainer.set_watch(self.meta.watch.clone());
        Ok(())
    }

    /// Whether an adapter belongs to the base of a trainer.
    fn check_base(&self, trainer: &Trainer) -> Result<(), CheckpointError> {
        let Some(found) = trainer.base().map(|found| found.to_string()) else { return Ok(()) };
        let saved = self.meta.base.as_ref().map_or("nothing", |base| &base.fingerprint);
        if saved == found {
            return Ok(());
        }
        let (path, key, saved) = (self.path.clone(), "the base's fingerprint".into(), saved.to_owned());
        Err(CheckpointError::Differs { path, key, saved, given: found })
    }

    /// The state of one parameter, found by the names of its tensors.
    fn restore_state(&self, tensor: &Tensor, param: &Param, backend: &mut dyn Backend) -> Result<(), CheckpointError> {
        let mut saved = saved_state(tensor);
        if let (true, Some(first)) = (saved.is_empty(), param.state.tensors().next()) {
            let (path, name, plane) = (self.path.clone(), tensor.spec.name.clone(), first.spec.name.into());
            return Err(CheckpointError::Plane { path, name, plane, bytes: first.data.bytes });
        }
        let same = |saved: &[SavedState]| {
            let found = |tensor| saved.iter().any(|saved| saved.state == declared(param, tensor));
            param.state.tensors().all(found) && param.state.tensors().count() == saved.len()
        };
        if !same(&saved) {
            let list = |states: Vec<String>| if states.is_empty() { "nothing".into() } else { states.join(", ") };
            let (path, name) = (self.path.clone(), tensor.spec.name.clone());
            let found = list(saved.iter().map(|saved| saved.state.to_string()).collect());
            let expected = list(param.state.tensors().map(|tensor| declared(param, tensor).to_string()).collect());
            return Err(CheckpointError::State { path, name, found, expected });
        }
        for tensor in param.state.tensors() {
            let at = saved.iter().position(|saved| saved.state.name == tensor.spec.name).expect("found above");
            let saved = saved.swap_remove(at);
            for (plane, span) in [(Some(saved.data), tensor.data), (saved.scales, tensor.scales)] {
                let Some(range) = plane.map(|plane| plane.range()) else { continue };
                put(backend, &self.map[range.start as usize..range.end as usize], span);
            }
        }
        Ok(())
    }

    /// Puts the saved weights, and nothing else, into a new trainer: the start of another run. Where the file has no
    /// residue, the trained value begins at the code's own. What the run stores in another way is rounded to it.
    ///
    /// # Errors
    /// If the configurations differ in what the weights are, see [`Checkpoint::check_weights`].
    pub fn start(&self, trainer: &mut Trainer) -> Result<(), CheckpointError> {
        self.check_weights(trainer.config())?;
        self.check_base(trainer)?;
        // Of an adapter whose rows grow first values are needed; all else that the file holds is replaced, every plane of it.
        trainer.initialize_but(|entry| self.meta.holds(entry.kind) && !entry.kind.is_adapter());
        let orthogonal = trainer.config().continual.stage.and_then(|stage| stage.orthogonal);
        let grown = |rows: u64, entry: &ParamSpec| rows as usize * entry.shape.cols * size_of::<f32>();
        let earlier = |entry: &ParamSpec, bytes: usize| orthogonal.is_some_and(|args| bytes == grown(args.rows, entry));
        let (model, backend) = trainer.model_and_backend();
        let held = model.specs.iter().zip(&model.stored).filter(|(entry, _)| self.meta.holds(entry.kind));
        for (entry, param) in held {
            let name = entry.kind.name();
            let number = self.head.find(&name).expect("looked up before");
            let tensor = &self.head.tensors[number];
            if self.stores_otherwise(&tensor.spec, entry) {
                self.recode(number, param, backend);
                continue;
            }
            for plane in weight_planes(param) {
                let found = tensor.plane(plane.kind).filter(|p| p.element() == Some(plane.element));
                match found.map(|p| p.range()) {
                    Some(range) if earlier(entry, (range.end - range.start) as usize) => {
                        let bytes = &self.map[range.start as usize..range.end as usize];
                        put(backend, bytes, plane.span.head(bytes.len()));
                    }
                    Some(range) if (range.end - range.start) as usize == plane.span.bytes => {
                        put(backend, &self.map[range.start as usize..range.end as usize], plane.span);
                    }
                    None if plane.kind == PlaneKind::Residue => {
                        put(backend, &vec![PAD_NIBBLE * 17; plane.span.bytes], plane.span);
                    }
                    _ => {
                        let (plane, bytes) = (plane.kind.name(), plane.span.bytes);
                        return Err(CheckpointError::Plane { path: self.path.clone(), name, plane, bytes });
                    }
                }
            }
        }
        if !self.meta.has_offline() {
            trainer.begin_offline();
        }
        Ok(())
    }

    /// Whether `given` describes this model, however it stores the weights.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_weights(&self, given: &Config) -> Result<(), CheckpointError> {
        let differs = |key: String, saved: String, given: String| {
            Err(CheckpointError::Differs { path: self.path.clone(), key, saved, given })
        };
        let (saved, now) = (to_json(&self.meta.model), to_json(&given.model));
        if let Some((key, saved, now)) = difference(&saved, &now, |key| key == "init_std") {
            return differs(format!("model.{key}"), saved, now);
        }
        if let Some(saved) = &self.meta.adapter {
            let (saved, now) = (to_json(saved), to_json(&given.adapter));
            // O-LoRA adds a pair for each task.
            let grows = given.continual.stage.is_some_and(|stage| stage.orthogonal.is_some());
            let other = if grows { &["rank", "alpha"][..] } else { &[] };
            let trains = ["dropout", "rate_b", "base"];
            let free = |key: &str| trains.contains(&key) || other.contains(&key);
            if let Some((key, saved, now)) = difference(&saved, &now, free) {
                return differs(format!("adapter.{key}"), saved, now);
            }
        }
        if !given.adapter.is_some() && self.meta.adapter.is_none() {
            return Ok(());
        }
        // An adapter's base is used as it is.
        let (saved, now) = (to_json(&self.meta.storage), to_json(&given.storage));
        for key in ["weights", "embedding", "head", "group", "scheme"] {
            if saved[key] != now[key] {
                return differs(format!("storage.{key}"), saved[key].to_string(), now[key].to_string());
            }
        }
        Ok(())
    }

    /// Whether a run of this configuration on this text may resume from this state: settings that must not change during
    /// a run are the same.
    ///
    /// # Errors
    /// The first difference, or a run that ends before this state.
    pub fn check_run(&self, given: &Config, data: &str) -> Result<(), CheckpointError> {
        let (step, steps) = (self.meta.counters.step, given.train.steps);
        if step > steps {
            return Err(CheckpointError::PastEnd { path: self.path.clone(), step, steps });
        }
        let differs = |key: &str, saved: String, given: String| {
            let key = key.into();
            Err(CheckpointError::Differs { path: self.path.clone(), key, saved, given })
        };
        if self.meta.data != data {
            return differs("the training text's fingerprint", self.meta.data.clone(), data.into());
        }
        if self.meta.seed != given.run.seed {
            return differs("run.seed", self.meta.seed.to_string(), given.run.seed.to_string());
        }
        if self.meta.continual != given.continual.stage {
            let text = |stage: Option<Stage>| serde_json::to_string(&stage).unwrap_or_default();
            return differs("continual", text(self.meta.continual), text(given.continual.stage));
        }
        let adapter = |adapter: &AdapterConfig| to_json(&AdapterConfig { base: None, ..adapter.clone() });
        let tables = [
            ("adapter", adapter(&self.meta.adapter.clone().unwrap_or_default()), adapter(&given.adapter)),
            ("model", to_json(&self.meta.model), to_json(&given.model)),
            ("storage", to_json(&self.meta.storage), to_json(&given.storage)),
            ("activations", to_json(&self.meta.activations), to_json(&given.activations)),
        ];
        for (table, saved, given) in tables {
            if let Some((key, saved, given)) = difference(&saved, &given, |_| false) {
                return differs(&format!("{table}.{key}"), saved, given);
            }
        }
        // The position counts sequences: in sequences of another length it is another place in the text.
        if self.meta.train.sequence != given.train.sequence {
            let (saved, now) = (self.meta.train.sequence, given.train.sequence);
            return differs("train.sequence", saved.to_string(), now.to_string());
        }
        let optimizer = self.meta.optimizer();
        let optimizer = optimizer.map_err(|what| CheckpointError::Optimizer { path: self.path.clone(), what })?;
        if optimizer.name != given.optimizer.name {
            let word = |optimizer| to_json(optimizer)["name"].to_string();
            return differs("optimizer.name", word(&optimizer), word(&given.optimizer));
        }
        Ok(())
    }

    /// A parameter whose weight lies in the mapped file and that has no state.
    pub(super) fn mapped(&self, entry: &ParamSpec) -> Param {
        let tensor = self.tensor(&entry.kind.name());
        let at = |kind| {
            tensor.plane(kind).map_or(Span::NONE, |plane| {
                let range = plane.range();
                let (offset, bytes) = (range.start as usize, (range.end - range.start) as usize);
                Span { place: Place::Mapped, offset, bytes }
            })
        };
        let format = entry.format.with_residue(false);
        let weight = Weight::place(entry.shape, format, |plane, bytes| match bytes {
            0 => Span::NONE,
            _ => at(PlaneKind::of_weight(format.codec(), plane)),
        });
        let decay = !entry.kind.is_vector();
        Param { id: entry.id, group: entry.group, decay, sparse: false, weight, state: State::default() }
    }
}

/// Puts the bytes of a plane where it lies, unless another rank holds it.
fn put(backend: &mut dyn Backend, bytes: &[u8], span: Span) {
    if !span.is_away() {
        backend.upload(bytes, span);
        backend.advise_cold(span);
    }
}

/// The first key in which two tables differ, with both values, but for those that are `free`. A table leaves out what is as it is
/// by default, so a key of either may be missing in the other.
fn difference(
    saved: &serde_json::Map<String, serde_json::Value>,
    given: &serde_json::Map<String, serde_json::Value>,
    free: impl Fn(&str) -> bool,
) -> Option<(String, String, String)> {
    let differs = |key: &&String| !free(key) && saved.get(*key) != given.get(*key);
    let key = saved.keys().chain(given.keys()).find(differs)?;
    let text = |value: Option<&serde_json::Value>| value.map_or("its default".into(), ToString::to_string);
    Some((key.clone(), text(saved.get(key)), text(given.get(key))))
}

fn to_json(value: &impl serde::Serialize) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(map)) => map,
        other => unreachable!("a table of plain values is an object, not {other:?}"),
    }
}
