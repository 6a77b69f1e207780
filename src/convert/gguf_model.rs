//! A GGUF file as a model: keys to configuration, tensors to parameters.

use super::gguf::{Gguf, TensorInfo, Value};
use super::names::RowOrder;
use super::quants::Kind;
use super::source::{Beside, Found, Source, assign, beyond};
use super::{hugging_face, tokenizer};
use crate::error::{ConvertError, GgufError};
use crate::model::{BlockParam as P, ModelConfig, ParamKind, RopeScaling, rope_factor};
use crate::store::Map;
use std::path::Path;

/// Factors of LLaMA 3's frequencies, which a GGUF file holds instead of the rule's constants.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Opens a GGUF model.
///
/// # Errors
/// A damaged file, another architecture, tensors that do not fit the keys.
pub fn open(path: &Path, map: Map, beside: Beside<'_>) -> Result<Source, ConvertError> {
    let failed = |source| ConvertError::Gguf { path: path.into(), source };
    let gguf = Gguf::parse(&map).map_err(failed)?;
    let model = configuration(path, &gguf, &map)?;
    let paired = architecture(&gguf).map_err(failed)? == "llama";
    let found: Found = gguf.tensors.iter().map(|info| (info.name.clone(), (0, info.clone()))).collect();
    let order = |kind| match kind {
        ParamKind::Block(_, P::Query | P::Key | P::QueryBias | P::KeyBias) if paired => {
            RowOrder::Paired(model.head_dim())
        }
        _ => RowOrder::Same,
    };
    let tensors = assign(path, &model, found, ParamKind::gguf_name, order, |name| name == ROPE_FACTORS)?;
    let given = beside.tokenizer.map(hugging_face::tokenizer_file).transpose()?;
    let built = match given {
        Some((json, _)) => Some((json, tokenizer::config_of_gguf(&gguf).map_err(failed)?)),
        None => tokenizer::from_gguf(path, &gguf)?,
    };
    let (tokenizer, tokenizer_config) = built.unzip();
    let generation_config = tokenizer::ends_of_gguf(&gguf).map_err(failed)?;
    let mut notes = beyond(special_ids(&gguf).map_err(failed)?, model.vocab);
    if tokenizer.is_none() {
        notes.push("the file has no tokenizer; its tokens are taken for bytes (--tokenizer FILE gives another)".into());
    }
    Ok(Source {
        path: path.into(),
        format: "GGUF",
        files: vec![(path.into(), map)],
        model,
        tensors,
        tokenizer,
        tokenizer_config: tokenizer_config.flatten(),
        generation_config,
        notes,
    })
}

fn architecture<'a>(gguf: &Gguf<'a>) -> Result<&'a str, GgufError> {
    gguf.need("general.architecture", "a text", Value::text)
}

/// The special tokens, with their keys.
fn special_ids(gguf: &Gguf<'_>) -> Result<Vec<(String, u64)>, GgufError> {
    let mut found = Vec::new();
    for name in ["bos", "eos", "eot", "eom", "unknown", "padding"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        found.extend(gguf.maybe(&key, "a whole number", Value::count)?.map(|id| (key, id)));
    }
    Ok(found)
}

/// Keys below the architecture's name.
struct Keys<'g, 'a> {
    gguf: &'g Gguf<'a>,
    architecture: &'a str,
}

impl<'a> Keys<'_, 'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn maybe_size(&self, name: &str) -> Result<Option<usize>, GgufError> {
        // Some files have a number for each block; only models whose blocks are all alike are read.
        let size = |value: Value<'a>| value.same().count().and_then(|n| usize::try_from(n).ok());
        self.gguf.maybe(&self.key(name), "a whole number", size)
    }

    fn size(&self, name: &str) -> Result<usize, GgufError> {
        self.maybe_size(name)?.ok_or_else(|| GgufError::KeyMissing { key: self.key(name) })
    }

    fn number(&self, name: &str) -> Result<Option<f64>, GgufError> {
        // GGUF stores f32; the shortest decimal is what was meant: 1e-5, not 9.999999747378752e-6.
        let shortest = |x: f64| (x as f32).to_string().parse().unwrap_or(x);
        Ok(self.gguf.maybe(&self.key(name), "a number", Value::number)?.map(shortest))
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, GgufError> {
        self.gguf.maybe(&self.key(name), "a text", Value::text)
    }
}

fn configuration(path: &Path, gguf: &Gguf<'_>, map: &[u8]) -> Result<ModelConfig, ConvertError> {
    let failed = |source| ConvertError::Gguf { path: path.into(), source };
    let architecture = architecture(gguf).map_err(failed)?;
    let unsupported = |what: String| ConvertError::Unsupported { path: path.into(), what };
    if !["llama", "qwen2", "qwen3"].contains(&architecture) {
        let shown = Value::Text(architecture).describe();
        return Err(unsupported(format!("its architecture is {shown}")));
    }
    if let Some(parts) = gguf.maybe("split.count", "a whole number", Value::count).map_err(failed)?.filter(|n| *n > 1) {
        let what = format!(
            "is one of {parts} files of a model; join them with llama.cpp's `llama-gguf-split --merge FIRST JOINED.gguf`"
        );
        return Err(ConvertError::Source { path: path.into(), what });
    }
    let keys = Keys { gguf, architecture };
    let mut model = plain(&keys).map_err(failed)?;
    if let Some(what) = not_computed(&keys, &model).map_err(failed)? {
        return Err(unsupported(what));
    }
    let has = |name: &str| gguf.tensors.iter().find(|tensor| tensor.name == name);
    model.tied = has(&ParamKind::Head.gguf_name()).is_none();
    model.qkv_bias = has(&ParamKind::Block(0, P::QueryBias).gguf_name()).is_some();
    model.qk_norm = has(&ParamKind::Block(0, P::QueryNorm).gguf_name()).is_some();
    if let Some(embedding) = has(&ParamKind::Embedding.gguf_name()) {
        model.vocab = embedding.dims[0] as usize;
    }
    if let Some(stated) = keys.maybe_size("vocab_size").map_err(failed)?.filter(|n| *n != model.vocab) {
        let what = format!("{architecture}.vocab_size is {stated}, but the embedding has {} rows", model.vocab);
        return Err(ConvertError::Source { path: path.into(), what });
    }
    scaling(path, &keys, &mut model)?;
    if let Some(factors) = has(ROPE_FACTORS) {
        llama3(&factors_of(factors, map), &mut model).ok_or_else(|| {
            unsupported(format!("{ROPE_FACTORS} scales its frequencies by a rule that is not LLaMA 3's"))
        })?;
    }
    Ok(model)
}

fn plain(keys: &Keys<'_, '_>) -> Result<ModelConfig, GgufError> {
    let (hidden, heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
    let implied = hidden.checked_div(heads).unwrap_or(0);
    let head_dim = keys.maybe_size("attention.key_length")?.unwrap_or(implied);
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(found) = keys.maybe_size(name)?.filter(|n| *n != head_dim) {
            let needed = format!("the size of a head, {head_dim},");
            return Err(GgufError::KeyValue { key: keys.key(name), found: found.to_string(), needed });
        }
    }
    Ok(ModelConfig {
        hidden,
        heads,
        intermediate: keys.size("feed_forward_length")?,
        layers: keys.size("block_count")?,
        kv_heads: keys.maybe_size("attention.head_count_kv")?.unwrap_or(heads),
        context: keys.size("context_length")?,
        head_dim: (head_dim != implied || hidden.checked_rem(heads) != Some(0)).then_some(head_dim),
        rope_theta: keys.number("rope.freq_base")?.unwrap_or(10_000.0),
        norm_eps: keys
            .number("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| GgufError::KeyMissing { key: keys.key("attention.layer_norm_rms_epsilon") })?,
        ..ModelConfig::default()
    })
}

/// What the keys say of the model that is not computed.
fn not_computed(keys: &Keys<'_, '_>, model: &ModelConfig) -> Result<Option<String>, GgufError> {
    let told = |name: &str, what: &str, value: f64| format!("it has {what}: {} = {value}", keys.key(name));
    for (name, what) in [("expert_count", "experts"), ("attention.sliding_window", "a sliding window of tokens")] {
        if let Some(n) = keys.maybe_size(name)?.filter(|n| *n > 0) {
            return Ok(Some(told(name, what, n as f64)));
        }
    }
    let head_dim = model.head_dim.or(model.hidden.checked_div(model.heads)).unwrap_or(1);
    let usual = 1.0 / (head_dim as f64).sqrt();
    // Each with the values that change nothing; 0 stands for none in llama.cpp.
    for (name, what, neutral) in [
        ("attention.scale", "a scale of its own for attention's scores", usual),
        ("attention.clamp_kqv", "clamped queries, keys and values", 0.0),
        ("attn_logit_softcapping", "capped attention scores", 0.0),
        ("final_logit_softcapping", "capped logits", 0.0),
        ("logit_scale", "scaled logits", 1.0),
        ("embedding_scale", "scaled embeddings", 1.0),
        ("residual_scale", "scaled residual connections", 1.0),
    ] {
        let value = keys.number(name)?.filter(|value| *value != 0.0 && (value - neutral).abs() > 1e-6);
        if let Some(value) = value {
            return Ok(Some(told(name, what, value)));
        }
    }
    for (name, what, usual) in
        [("attention.causal", "attention to later tokens", true), ("use_parallel_residual", "parallel blocks", false)]
    {
        let switch = |value: Value<'_>| if let Value::Bool(switch) = value { Some(switch) } else { None };
        if keys.gguf.maybe(&keys.key(name), "true or false", switch)?.is_some_and(|found| found != usual) {
            return Ok(Some(format!("it has {what}: {} = {}", keys.key(name), !usual)));
        }
    }
    Ok(None)
}

fn scaling(path: &Path, keys: &Keys<'_, '_>, model: &mut ModelConfig) -> Result<(), ConvertError> {
    let failed = |source| ConvertError::Gguf { path: path.into(), source };
    let factor = match keys.number("rope.scaling.factor").map_err(failed)? {
        Some(factor) => Some(factor),
        None => keys.number("rope.scale_linear").map_err(failed)?,
    };
    match keys.text("rope.scaling.type").map_err(failed)? {
        Some("none") => {}
        None | Some("linear") => {
            if let Some(factor) = factor.filter(|factor| *factor != 1.0) {
                (model.rope_scaling, model.rope_factor) = (RopeScaling::Linear, factor);
            }
        }
        Some(other) => {
            let what = format!("its rope scaling is {}", Value::Text(other).describe());
            return Err(ConvertError::Unsupported { path: path.into(), what });
        }
    }
    Ok(())
}

fn factors_of(tensor: &TensorInfo, map: &[u8]) -> Vec<f32> {
    let elements = tensor.dims.iter().product::<u64>() as usize;
    let mut factors = vec![0.0; if tensor.kind == Kind::F32 { elements } else { 0 }];
    if tensor.kind == Kind::F32 {
        Kind::F32.decode(&map[tensor.range.clone()], &mut factors);
    }
    factors
}

/// The rule behind the factors, if it is LLaMA 3's with the constants of its releases and some context that the model was
/// trained on before: theirs, or another power of two.
fn llama3(factors: &[f32], model: &mut ModelConfig) -> Option<()> {
    let factor = factors.iter().copied().fold(0.0, f32::max);
    if factors.iter().all(|factor| *factor == 1.0) && !factors.is_empty() {
        return Some(());
    }
    if model.heads == 0 || factors.len() * 2 != model.head_dim() {
        return None;
    }
    let ruled = ModelConfig { rope_scaling: RopeScaling::Llama3, rope_factor: f64::from(factor), ..model.clone() };
    let contexts = std::iter::once(ruled.rope_original_context).chain((8..=20).map(|bits| 1 << bits));
    *model = contexts.map(|context| ModelConfig { rope_original_context: context, ..ruled.clone() }).find(|ruled| {
        factors.iter().enumerate().all(|(i, &found)| {
            let ruled = rope_factor(ruled, i);
            (f64::from(found) - ruled).abs() <= 1e-4 * ruled
        })
    })?;
    Some(())
}
