//! An adapter in memory: what converters make and read.

use super::load::Checkpoint;
use super::meta::{BaseModel, Meta, OF_BASE};
use super::planes::spec;
use crate::error::{CheckpointError, ConfigError, ReplaceError};
use crate::format::{Decoder, Layout, PlaneKind, Role, TensorPlan};
use crate::model::{AdapterConfig, OFFLINE, ParamSpec, param_specs};
use crate::quant::{RowEncoder, RowPlanes, WeightPlane};
use crate::store::replace;
use crate::train::{Counters, Watch};
use std::io;
use std::path::Path;

/// An adapter with its values as numbers.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What its file says about itself.
    pub meta: Meta,
    /// Its tensors in the order of the file, each row by row. B is transposed: `[rank, out]`.
    pub tensors: Vec<(ParamSpec, Vec<f32>)>,
}

impl Adapter {
    /// An adapter of `base` with zeros for values.
    ///
    /// # Errors
    /// [`CheckpointError::Config`] with every mistake in `config` beside that model.
    pub fn new(base: &Checkpoint, config: AdapterConfig) -> Result<Self, CheckpointError> {
        let problems = config.problems(&base.meta.model);
        if !problems.0.is_empty() {
            let source = ConfigError::Invalid(problems.0);
            return Err(CheckpointError::Config { path: base.path().into(), source });
        }
        let meta = Meta {
            adapter: Some(AdapterConfig { base: None, ..config }),
            base: Some(BaseModel { fingerprint: base.fingerprint().to_string() }),
            continual: None,
            counters: Counters::default(),
            watch: Watch::default(),
            tokenizer: OF_BASE.into(),
            data: String::new(),
            ..base.meta.clone()
        };
        Ok(Self {
            tensors: held(&meta)
                .map(|spec| {
                    let len = spec.shape.len();
                    (spec, vec![0.0; len])
                })
                .collect(),
            meta,
        })
    }

    /// Reads an adapter's file and checks all that it holds.
    ///
    /// # Errors
    /// As [`Checkpoint::open_sound`], and if it is no adapter.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        Self::of(&Checkpoint::open_sound(path)?)
    }

    /// The adapter of a file whose contents were checked.
    ///
    /// # Errors
    /// If it is no adapter, or has an offline module too.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        match checkpoint.meta.has_offline() {
            true => Err(CheckpointError::TwoModules { path: checkpoint.path().into() }),
            false => Self::of_module(checkpoint, false),
        }
    }

    /// One module of the adapter of a file whose contents were checked: the online one, which each has, or the offline one.
    ///
    /// # Errors
    /// If it is no adapter, or has no such module.
    pub fn of_module(checkpoint: &Checkpoint, offline: bool) -> Result<Self, CheckpointError> {
        if checkpoint.meta.adapter.is_none() {
            return Err(CheckpointError::NoAdapter { path: checkpoint.path().into() });
        }
        if offline && !checkpoint.meta.has_offline() {
            return Err(CheckpointError::OneModule { path: checkpoint.path().into() });
        }
        // By itself it is a plain adapter.
        let meta = Meta { continual: None, ..checkpoint.meta.clone() };
        let file = checkpoint.file();
        let values = |spec: ParamSpec| {
            let name = spec.kind.name();
            let name = if offline { format!("{OFFLINE}{name}") } else { name };
            let (index, _) = file.tensor(&name).expect("every tensor is there, or it would not be open");
            let decoder = Decoder::new(&file, index, Role::Weight).expect("every tensor has a weight");
            let mut values = vec![0.0; spec.shape.len()];
            values.chunks_mut(spec.shape.cols).enumerate().for_each(|(row, out)| decoder.row(row, out));
            (spec, values)
        };
        Ok(Self { tensors: held(&meta).map(values).collect(), meta })
    }

    /// Writes it to `path`, atomically, without optimizer state. The same adapter gives the same bytes.
    ///
    /// # Errors
    /// Those of the file system; the previous file of that name is then as it was.
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let plans: Vec<_> = self.tensors.iter().map(|(entry, _)| TensorPlan::weight(spec(entry))).collect();
        let layout = Layout::new(&plans, &self.meta.to_map(), &[])
            .map_err(|e| CheckpointError::Format { path: path.into(), source: Box::new(e) })?;
        let mut source = |tensor: usize, _: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
            let (entry, values) = &self.tensors[tensor];
            let mut encoder = RowEncoder::new(entry.format, entry.shape);
            let bytes = entry.format.plane(WeightPlane::Data).map_or(0, |layout| layout.row_bytes(entry.shape));
            let mut row = vec![0; bytes];
            for values in values.chunks(entry.shape.cols) {
                let [scales, offsets, residue] = [(); 3].map(|()| Default::default());
                encoder.encode(values, &mut RowPlanes { data: &mut row, scales, offsets, residue });
                sink(&row)?;
            }
            Ok(())
        };
        replace(path, layout.file_len(), |out| layout.write(out, &mut source)).map_err(|error| match error {
            ReplaceError::Store(source) => CheckpointError::Store(source),
            ReplaceError::Write(source) => CheckpointError::Write { path: path.into(), source },
        })
    }
}

/// The tensors of the adapter that the metadata describe.
fn held(meta: &Meta) -> impl Iterator<Item = ParamSpec> + use<> {
    let meta = meta.clone();
    param_specs(&meta.settings()).into_iter().filter(move |spec| meta.holds(spec.kind))
}
