//! A source into a file, tensor by tensor.

mod kept;
mod tensors;

use super::Progress;
use super::quants::Kind;
use super::source::{Source, configuration};
use crate::checkpoint::{GENERATION_CONFIG, Meta, TOKENIZER, TOKENIZER_CONFIG, spec};
use crate::config::Config;
use crate::error::{ConvertError, ReplaceError};
use crate::format::{Attachment, Layout, PlaneKind, TensorPlan};
use crate::model::{ParamKind, ParamSpec, Scheme, TableStorage, Weights, param_specs};
use crate::quant::{BLOCK, Element};
use crate::store::{replace, same_file};
use crate::train::Counters;
use std::io;
use std::path::Path;
use tensors::{Reader, Stop};

/// How an imported model is stored; what is left out follows from the source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The matrices of the blocks.
    pub weights: Option<TableStorage>,
    /// Symmetric, or with offsets.
    pub scheme: Option<Scheme>,
    /// Elements per group.
    pub group: Option<usize>,
    /// The embedding (and the head, if tied).
    pub embedding: Option<TableStorage>,
    /// The untied head.
    pub head: Option<TableStorage>,
    /// Leave out the four bits below the codes.
    pub codes_only: bool,
}

/// What was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The configuration of the file.
    pub config: Config,
    /// Bytes of the file.
    pub bytes: u64,
    /// Tensors whose bits were kept.
    pub kept: usize,
    /// Tensors that were rounded to four or eight bits.
    pub rounded: usize,
    /// Tensors of floats.
    pub floats: usize,
}

/// Writes a source's model to `path`, atomically. The same source gives the same bytes.
///
/// # Errors
/// Weights that are not finite, options that make no sense, the file system.
pub fn import(
    source: &Source,
    options: &Options,
    path: &Path,
    progress: &mut Progress,
) -> Result<Summary, ConvertError> {
    refuse_itself(source, path)?;
    let config = storage(source, options)?;
    let entries = param_specs(&config.settings());
    let modes: Vec<ImportMode> = entries.iter().map(|entry| ImportMode::of(source, entry)).collect();
    let plans: Vec<TensorPlan> = entries
        .iter()
        .zip(&modes)
        .map(|(entry, mode)| {
            let plan = TensorPlan::weight(spec(entry));
            let residue = *mode == ImportMode::Rounded && entry.format.has_residue();
            if residue { plan.with(PlaneKind::Residue, Element::Nibble) } else { plan }
        })
        .collect();
    let beside = [
        (TOKENIZER, &source.tokenizer),
        (TOKENIZER_CONFIG, &source.tokenizer_config),
        (GENERATION_CONFIG, &source.generation_config),
    ];
    let attachments: Vec<Attachment> = beside
        .into_iter()
        .filter_map(|(name, bytes)| bytes.as_deref().map(|bytes| Attachment { name, bytes }))
        .collect();
    let meta = Meta::new(&config, Counters::default(), source.tokenizer.is_some(), "");
    let layout = Layout::new(&plans, &meta.to_map(), &attachments)
        .map_err(|e| ConvertError::Format { path: path.into(), source: Box::new(e) })?;
    let mut reader = Reader { source, entries: &entries, modes: &modes, latest: None };
    // Every plane is produced twice: for its checksum, then to be written.
    let (mut done, total) = (0, 2 * layout.file_len());
    let mut fault = None;
    let mut produce = |tensor: usize, kind: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
        let mut counted = |bytes: &[u8]| {
            done += bytes.len() as u64;
            progress(done.min(total), total);
            sink(bytes)
        };
        reader.send(tensor, kind, &mut counted).map_err(|error| match error {
            Stop::Io(error) => error,
            Stop::Fault(error) => {
                fault = Some(error);
                io::Error::other("the source's weights are not sound")
            }
        })
    };
    let written = replace(path, layout.file_len(), |out| layout.write(out, &mut produce));
    progress(total, total);
    if let Some(fault) = fault {
        return Err(fault);
    }
    written.map_err(|error| match error {
        ReplaceError::Store(source) => ConvertError::Store(source),
        ReplaceError::Write(source) => ConvertError::Write { path: path.into(), source },
    })?;
    let count = |mode| modes.iter().filter(|found| **found == mode).count();
    let (kept, rounded, floats) = (count(ImportMode::Kept), count(ImportMode::Rounded), count(ImportMode::Floats));
    Ok(Summary { config, bytes: layout.file_len(), kept, rounded, floats })
}

/// The output must not be one of the inputs, which may be the only copy.
fn refuse_itself(source: &Source, path: &Path) -> Result<(), ConvertError> {
    match source.files.iter().find(|(other, _)| same_file(path, other)) {
        Some(_) => {
            let what = "is the file that is read; name another one to write".into();
            Err(ConvertError::Source { path: path.into(), what })
        }
        None => Ok(()),
    }
}

/// The configuration of the file: scheme, group and tables that keep most of the source's bits, unless told otherwise.
fn storage(source: &Source, options: &Options) -> Result<Config, ConvertError> {
    let mut config = configuration(&source.path, &source.model)?;
    let kinds: Vec<Kind> = source
        .tensors
        .iter()
        .filter(|(role, _)| !role.is_vector())
        .filter(|(role, _)| match role {
            ParamKind::Embedding => options.embedding.is_none_or(|table| table == TableStorage::Int4),
            ParamKind::Head => options.head.is_none_or(|table| table == TableStorage::Int4),
            _ => true,
        })
        .map(|(_, stored)| stored.info.kind)
        .collect();
    let any = |which: &[Kind]| kinds.iter().any(|kind| which.contains(kind));
    let storage = &mut config.storage;
    let matrices = options.weights.unwrap_or(match any(&[Kind::Mxfp4]) {
        true => TableStorage::Fp4,
        false => TableStorage::Int4,
    });
    storage.weights = Weights::from(matrices);
    let floats = [Kind::F32, Kind::F16, Kind::Bf16];
    let blocks = matrices == TableStorage::Fp4 || kinds.iter().any(|kind| !floats.contains(kind));
    storage.group = options.group.unwrap_or(if blocks { BLOCK } else { storage.group });
    storage.embedding = options.embedding.unwrap_or_else(|| table_storage(source.kind(ParamKind::Embedding)));
    storage.head = options.head.unwrap_or_else(|| table_storage(source.kind(ParamKind::Head)));
    // Offsets are for integers that were stored with some, where any are left.
    let head = if source.model.tied { storage.embedding } else { storage.head };
    let integers = [matrices, storage.embedding, head].contains(&TableStorage::Int4);
    let offsets = integers && any(&[Kind::Q4_1, Kind::Q4K, Kind::Q5_1, Kind::Q5K]);
    storage.scheme = options.scheme.unwrap_or(if offsets { Scheme::Asymmetric } else { Scheme::Symmetric });
    storage.residue = !options.codes_only;
    config.train.sequence = source.model.context.min(512);
    config.train.warmup = config.train.warmup.min(config.train.steps);
    if source.tokenizer.is_none() {
        config.tokenizer.file = None;
    }
    config.validate().map_err(|e| ConvertError::Source { path: source.path.clone(), what: e.to_string() })?;
    Ok(config)
}

fn table_storage(kind: Option<Kind>) -> TableStorage {
    match kind {
        None | Some(Kind::F32 | Kind::F16 | Kind::Bf16) => TableStorage::Bf16,
        Some(Kind::Q4_0 | Kind::Q4_1 | Kind::Q4K) => TableStorage::Int4,
        Some(Kind::Mxfp4) => TableStorage::Fp4,
        Some(Kind::Q8_0 | Kind::Q5_0 | Kind::Q5_1 | Kind::Q5K | Kind::Q6K) => TableStorage::Int8,
    }
}

/// How a tensor is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ImportMode {
    /// Its groups are kept, bit for bit or code for code.
    Kept,
    /// Rounded to codes under scales.
    Rounded,
    /// Floats to floats.
    Floats,
}

impl ImportMode {
    fn of(source: &Source, entry: &ParamSpec) -> Self {
        let kind = source.tensors[&entry.kind].info.kind;
        if !entry.format.is_quantized() {
            Self::Floats
        } else if entry.shape.group == BLOCK && kind.has_groups_of(entry.format.codec()) {
            Self::Kept
        } else {
            Self::Rounded
        }
    }
}
