//! Export to GGUF.

use super::put;
use super::rows::send;
use crate::checkpoint::Checkpoint;
use crate::convert::gguf::{GgufWriter, Item, MetaValue};
use crate::convert::names::RowOrder;
use crate::convert::quants::Kind;
use crate::convert::tokenizer::{left_out, to_gguf};
use crate::convert::{Progress, Sink};
use crate::data::Tokenizer;
use crate::error::ConvertError;
use crate::format::{File, TensorSpec};
use crate::model::{BlockParam, ModelConfig, ParamKind, ParamSpec, RopeScaling, param_specs, rope_factor};
use std::path::Path;

/// A type for the embedding or the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TableType {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
}

/// Requested types. By default packed matrices keep their bits, and bf16 becomes F16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GgufTypes {
    /// The embedding (and the head, if tied).
    pub embedding: Option<TableType>,
    /// The untied head.
    pub head: Option<TableType>,
}

/// Writes a model to a GGUF file, atomically. Returns how many tensors have each type.
///
/// # Errors
/// A file that cannot be read or written; a model that has no GGUF form.
pub fn export_gguf(
    checkpoint: &Checkpoint,
    types: GgufTypes,
    path: &Path,
    progress: &mut Progress,
) -> Result<Vec<(Kind, usize)>, ConvertError> {
    checkpoint.verify_weights()?;
    let meta = &checkpoint.meta;
    if meta.storage.matrix_format().simulates().is_some() {
        let what = "its weights are rounded to four bits on the fly (a simulation in storage.weights), and have \
                    no four-bit form to be exported; train with storage.weights = \"int4\"";
        return Err(ConvertError::Asked(format!("{}: {what}", checkpoint.path().display())));
    }
    let architecture = architecture(&meta.model)?;
    let file = checkpoint.file();
    let entries = param_specs(&meta.settings());
    let mut writer = GgufWriter::default();
    metadata(&mut writer, architecture, checkpoint)?;
    let mut sources = Vec::new();
    if meta.model.rope_scaling == RopeScaling::Llama3 {
        let dims = vec![meta.model.head_dim() as u64 / 2];
        writer.tensor(Item { name: "rope_freqs.weight".into(), dims, kind: Kind::F32 });
        sources.push(None);
    }
    let mut counts: Vec<(Kind, usize)> = Vec::new();
    for entry in &entries {
        let (tensor, found) = file.tensor(&entry.kind.name()).expect("its tensors were checked when it was opened");
        let kind = kind(entry, &found.spec, types)?;
        writer.tensor(Item { name: entry.kind.gguf_name(), dims: found.spec.dims.clone(), kind });
        sources.push(Some((tensor, order(entry.kind, architecture, &meta.model))));
        match counts.iter_mut().find(|count| count.0 == kind) {
            Some(count) => count.1 += 1,
            None => counts.push((kind, 1)),
        }
    }
    let (mut done, total) = (0, writer.file_len());
    let mut draw = |i: usize, sink: &mut Sink<'_>| {
        let mut counted = |bytes: &[u8]| {
            done += bytes.len() as u64;
            progress(done, total);
            sink(bytes)
        };
        match sources[i] {
            None => counted(&rope_factors(&meta.model)),
            Some((tensor, order)) => send(&file, tensor, writer.items()[i].kind, order, &mut counted),
        }
    };
    put(path, total, |out| writer.write(out, &mut draw))?;
    progress(total, total);
    counts.sort();
    Ok(counts)
}

fn rope_factors(model: &ModelConfig) -> Vec<u8> {
    (0..model.head_dim() / 2).flat_map(|i| (rope_factor(model, i) as f32).to_le_bytes()).collect()
}

pub fn architecture(model: &ModelConfig) -> Result<&'static str, ConvertError> {
    match (model.qkv_bias, model.qk_norm) {
        (false, false) => Ok("llama"),
        (true, false) => Ok("qwen2"),
        (false, true) => Ok("qwen3"),
        (true, true) => Err(ConvertError::Asked(
            "the model has both model.qkv_bias and model.qk_norm, which no architecture of GGUF has".into(),
        )),
    }
}

fn order(kind: ParamKind, architecture: &str, model: &ModelConfig) -> RowOrder {
    match kind {
        ParamKind::Block(_, BlockParam::Query | BlockParam::Key) if architecture == "llama" => {
            RowOrder::Paired(model.head_dim())
        }
        _ => RowOrder::Same,
    }
}

/// The type of an exported tensor.
fn kind(entry: &ParamSpec, spec: &TensorSpec, types: GgufTypes) -> Result<Kind, ConvertError> {
    if entry.kind.is_vector() {
        return Ok(Kind::F32);
    }
    let asked = match entry.kind {
        ParamKind::Embedding => types.embedding,
        ParamKind::Head => types.head,
        _ => None,
    };
    let asked = asked.map(|asked| match asked {
        TableType::F32 => Kind::F32,
        TableType::F16 => Kind::F16,
        TableType::Bf16 => Kind::Bf16,
        TableType::Q8_0 => Kind::Q8_0,
        TableType::Q4_0 => Kind::Q4_0,
    });
    let own = match Kind::of(spec.storage) {
        Kind::Bf16 if entry.kind == ParamKind::Embedding || entry.kind == ParamKind::Head => Kind::F16,
        kind => kind,
    };
    let fits = |kind: Kind| entry.shape.cols.is_multiple_of(kind.block());
    match asked {
        Some(kind) if !fits(kind) => Err(ConvertError::Asked(format!(
            "{} has rows of {} elements, and {} needs a multiple of {}; ask for f16",
            spec.name,
            entry.shape.cols,
            kind.name(),
            kind.block()
        ))),
        Some(kind) => Ok(kind),
        None if fits(own) => Ok(own),
        None => Ok(Kind::F16),
    }
}

fn metadata(writer: &mut GgufWriter, architecture: &str, checkpoint: &Checkpoint) -> Result<(), ConvertError> {
    let model = &checkpoint.meta.model;
    writer.key("general.architecture", MetaValue::Text(architecture.into()));
    writer.key("general.type", MetaValue::Text("model".into()));
    writer.key("general.quantization_version", MetaValue::U32(2));
    writer.key("general.file_type", MetaValue::U32(file_type(&checkpoint.file())));
    let sizes = [
        ("context_length", model.context),
        ("embedding_length", model.hidden),
        ("block_count", model.layers),
        ("feed_forward_length", model.intermediate),
        ("attention.head_count", model.heads),
        ("attention.head_count_kv", model.kv_heads),
        ("attention.key_length", model.head_dim()),
        ("attention.value_length", model.head_dim()),
        ("rope.dimension_count", model.head_dim()),
        ("vocab_size", model.vocab),
    ];
    for (name, size) in sizes {
        writer.key(format!("{architecture}.{name}"), MetaValue::U32(size as u32));
    }
    let mut number = |name: &str, x: f64| writer.key(format!("{architecture}.{name}"), MetaValue::F32(x as f32));
    number("attention.layer_norm_rms_epsilon", model.norm_eps);
    number("rope.freq_base", model.rope_theta);
    if model.rope_scaling == RopeScaling::Linear {
        number("rope.scaling.factor", model.rope_factor);
        writer.key(format!("{architecture}.rope.scaling.type"), MetaValue::Text("linear".into()));
    }
    let json = checkpoint.tokenizer();
    let tokenizer = match &json {
        Some(json) => Tokenizer::from_json(json)?,
        None => Tokenizer::bytes(),
    };
    let mut special = checkpoint.special_tokens(&tokenizer);
    // Where the configuration does not say, the tokenizer itself does: what it puts before and behind a text.
    let (begin, end) = (tokenizer.beginning(), tokenizer.ending());
    special.bos = special.bos.or(begin.first().copied());
    special.add_bos = special.add_bos.or(Some(!begin.is_empty()));
    special.add_eos = special.add_eos.or((!end.is_empty()).then_some(true));
    for (key, value) in to_gguf(json.as_deref(), &special, model.vocab)? {
        writer.key(key, value);
    }
    Ok(())
}

/// What of the model's tokenizer a GGUF file cannot say, though the file is of use without it.
///
/// # Errors
/// A tokenizer that cannot be read.
pub fn gguf_left_out(checkpoint: &Checkpoint) -> Result<Vec<String>, ConvertError> {
    checkpoint.tokenizer().map_or(Ok(Vec::new()), |json| left_out(&json))
}

/// The `general.file_type` of llama.cpp: the type of most tensors.
fn file_type(file: &File<'_>) -> u32 {
    let has = |kind| file.tensors().iter().any(|tensor| Kind::of(tensor.spec.storage) == kind);
    if has(Kind::Mxfp4) {
        return 38;
    }
    match (has(Kind::Q4_1), has(Kind::Q4_0), has(Kind::Bf16)) {
        (true, _, _) => 3,
        (_, true, _) => 2,
        (_, _, true) => 32,
        _ => 0,
    }
}
