//! An adapter into the weights of its base.
//!
//! Products read codes, so whatever ends in four bits is a second rounding: most changes of an adapter are a fraction of a
//! step, and rounding to the nearest code on new scales loses them. See [`MergeTarget`] for what is done instead, and
//! `docs/merging.md` for what survives.

mod calibrate;
mod feed;
mod planes;
mod round;

use super::Progress;
use super::adapter::pairs;
use crate::backend::Backend;
use crate::checkpoint::{Adapted, Adapter, Checkpoint, GENERATION_CONFIG, Meta, TOKENIZER, TOKENIZER_CONFIG, spec};
use crate::error::{ConvertError, ReplaceError};
use crate::format::{Attachment, Layout, PlaneKind, TensorPlan};
use crate::model::{ActivationConfig, AdapterKind, ParamKind, ParamSpec, Scheme, StorageConfig, Weights, param_specs};
use crate::quant::Element;
use crate::store::replace;
use crate::train::{Counters, Watch};
use calibrate::calibrated;
use planes::{Maker, Source};
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// What the matrices of a merged model are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergeTarget {
    /// As those of the base. Codes keep their scales and are rounded stochastically; what they leave over is the residue,
    /// as far as that reaches, so that packed training can go on.
    #[default]
    Own,
    /// Signed bytes with steps of a sixteenth of the base's, in twice the bytes of four bits.
    Int8,
    /// bfloat16.
    Bf16,
    /// float32.
    F32,
}

/// Text by which errors of rounding are made up for, see [`merge`].
pub struct Calibration<'a> {
    /// The model whose matrices read the text: the base with its adapters.
    pub model: &'a Adapted<'a>,
    /// What computes it; it has no memory yet.
    pub backend: &'a mut dyn Backend,
    /// What sums up the products of inputs, in float32; it has no memory yet.
    pub products: &'a mut dyn Backend,
    /// Token ids of windows, one after the other.
    pub tokens: &'a [u32],
    /// Tokens of a window.
    pub sequence: usize,
}

/// What was merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeSummary {
    /// Bytes of the file.
    pub bytes: u64,
    /// Matrices that an adapter changed.
    pub merged: usize,
    /// Groups whose values had left the range of their scale, and got a new one.
    pub refitted: u64,
    /// Groups of the changed matrices.
    pub groups: u64,
}

/// Writes the sum of a base and the adapters of it, in which a tied head is a matrix of its own if one of them changes it or the
/// embedding, each with the scale that its user gives it, to `path`, atomically. The
/// same input gives the same bytes. Without `calibration` no text is needed; with it, and where the base's own codes are
/// kept, the error of each code is made up for by the codes after it, in the measure of what the matrices read of the text
/// (GPTQ, arXiv 2210.17323).
///
/// # Errors
/// An adapter of another base; a base that cannot be merged into; the file system; a device that fails.
pub fn merge(
    base: &Checkpoint,
    adapters: &[(Adapter, f32)],
    target: MergeTarget,
    calibration: Option<Calibration<'_>>,
    path: &Path,
    progress: &mut Progress,
) -> Result<MergeSummary, ConvertError> {
    base.verify_weights()?;
    let meta = merged_meta(base, adapters, target)?;
    let entries = param_specs(&meta.settings());
    let maker = Maker { file: base.file(), entries: &entries, deltas: deltas(adapters), seed: meta.seed };
    let fed = match calibration {
        Some(calibration) if target == MergeTarget::Own => calibrated(&maker, calibration)?,
        _ => HashMap::new(),
    };
    let plans: Vec<TensorPlan> = entries
        .iter()
        .map(|entry| {
            let plan = TensorPlan::weight(spec(entry));
            if maker.has_residue(entry) { plan.with(PlaneKind::Residue, Element::Nibble) } else { plan }
        })
        .collect();
    let own: Vec<(&str, Vec<u8>)> = [TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG]
        .into_iter()
        .filter_map(|name| Some((name, base.attachment(name)?)))
        .collect();
    let attachments: Vec<Attachment> = own.iter().map(|(name, bytes)| Attachment { name, bytes }).collect();
    let layout = Layout::new(&plans, &meta.to_map(), &attachments)
        .map_err(|e| ConvertError::Format { path: path.into(), source: Box::new(e) })?;
    let mut source = Source { maker: &maker, fed, latest: None, refitted: HashMap::new() };
    // Every plane is produced twice: for its checksum, then to be written.
    let (mut done, total) = (0, 2 * layout.file_len());
    let mut produce = |tensor: usize, kind: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
        source.send(tensor, kind, &mut |bytes| {
            done += bytes.len() as u64;
            progress(done.min(total), total);
            sink(bytes)
        })
    };
    replace(path, layout.file_len(), |out| layout.write(out, &mut produce)).map_err(|error| match error {
        ReplaceError::Store(source) => ConvertError::Store(source),
        ReplaceError::Write(source) => ConvertError::Write { path: path.into(), source },
    })?;
    progress(total, total);
    let changed: Vec<&ParamSpec> = entries.iter().filter(|entry| maker.deltas.contains_key(&entry.kind)).collect();
    let groups = changed.iter().filter(|entry| entry.format.is_quantized()).map(|entry| entry.shape.groups() as u64);
    Ok(MergeSummary {
        bytes: layout.file_len(),
        merged: changed.len(),
        refitted: source.refitted.values().sum(),
        groups: groups.sum(),
    })
}

/// One pair of matrices whose product is added.
struct Delta {
    rank: usize,
    /// Factor, learned scale and the user's scale.
    factor: f32,
    /// `[r, in]`.
    a: Vec<f32>,
    /// `[out, r]`.
    b: Vec<f32>,
    /// Norms that rows of the sum are brought to, and how much of what that changes is added; the factor then lacks the user's
    /// scale.
    magnitude: Option<(Vec<f32>, f32)>,
}

/// The pairs beside each matrix.
type Deltas = HashMap<ParamKind, Vec<Delta>>;

fn deltas(adapters: &[(Adapter, f32)]) -> Deltas {
    let mut all = Deltas::new();
    for (adapter, scale) in adapters {
        for pair in pairs(adapter) {
            let delta = Delta {
                rank: pair.site.rank,
                factor: pair.site.factor as f32 * if pair.magnitude.is_some() { 1.0 } else { *scale },
                a: pair.a.to_vec(),
                b: pair.b(),
                magnitude: pair.magnitude.map(|magnitude| (magnitude.to_vec(), *scale)),
            };
            all.entry(pair.site.matrix.kind()).or_default().push(delta);
        }
    }
    all
}

/// The metadata of the merged model: a start, of which nothing is counted yet.
fn merged_meta(base: &Checkpoint, adapters: &[(Adapter, f32)], target: MergeTarget) -> Result<Meta, ConvertError> {
    let asked = |what: String| ConvertError::Asked(format!("{}: {what}", base.path().display()));
    let found = base.fingerprint();
    for (adapter, scale) in adapters {
        let of = adapter.meta.base.as_ref().map(|base| base.fingerprint.as_str()).unwrap_or_default();
        if of != found.to_string() {
            return Err(asked(format!(
                "its weights have the fingerprint {found}, and the adapter is of a base with {of}"
            )));
        }
        let kind = adapter.meta.adapter.as_ref().map_or(AdapterKind::None, |config| config.kind);
        if kind != AdapterKind::Lora {
            return Err(asked(format!(
                "an adapter of kind {} is no change of weights that could be merged; use it with --adapter",
                kind.name()
            )));
        }
        if !scale.is_finite() {
            return Err(asked(format!("an adapter cannot be scaled by {scale}")));
        }
    }
    if adapters.is_empty() {
        return Err(asked("there is no adapter to merge".into()));
    }
    let own = base.meta.storage.matrix_format();
    if own.simulates().is_some() {
        let what = "its weights are rounded to four bits on the fly (a simulation in storage.weights), and the values that \
                    the products see stand nowhere";
        return Err(asked(what.into()));
    }
    let weights = match target {
        MergeTarget::Own => base.meta.storage.weights,
        MergeTarget::Int8 => Weights::Int8,
        MergeTarget::Bf16 => Weights::Bf16,
        MergeTarget::F32 => Weights::F32,
    };
    let storage = StorageConfig { weights, ..base.meta.storage.clone() };
    let mut meta = Meta {
        storage,
        counters: Counters::default(),
        watch: Watch::default(),
        data: String::new(),
        ..base.meta.clone()
    };
    let changed = deltas(adapters);
    if meta.model.tied && [ParamKind::Embedding, ParamKind::Head].iter().any(|kind| changed.contains_key(kind)) {
        // They are no longer the same matrix.
        meta.model.tied = false;
        meta.storage.head = meta.storage.embedding;
    }
    // Words that only go with codes; whatever of them stays is still of the tables.
    if !meta.storage.has_four_bit_products() {
        meta.activations = ActivationConfig::default();
    }
    if !meta.storage.problems(meta.model.tied).0.is_empty() {
        (meta.storage.residue, meta.storage.feedback, meta.storage.scheme) = (true, false, Scheme::Symmetric);
    }
    meta.validate().map_err(|error| asked(format!("the merged model would be impossible: {error}")))?;
    Ok(meta)
}
