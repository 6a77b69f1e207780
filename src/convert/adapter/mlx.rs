//! mlx-lm's folder: `adapter_config.json` and `adapters.safetensors`, both halves transposed against PEFT's.

use super::found::{Half, HalfLayout, Halves, is_bf16, listed};
use super::patterns::shown;
use super::peft::Fault;
use super::site::Sites;
use super::{ForeignAdapter, ScaleRule};
use crate::convert::names::RowOrder;
use crate::convert::safetensors;
use crate::error::AdapterError;
use crate::model::{ModelConfig, ParamKind};
use serde_json::{Map, Value};
use std::path::Path;

/// What of a configuration says what is computed.
struct MlxConfig {
    rank: u64,
    scale: f64,
    dropout: f64,
    dora: bool,
    /// The first block that may be adapted.
    first: usize,
    base: Option<String>,
}

/// Reads the adapter whose configuration and tensors these are.
///
/// # Errors
/// Invalid files; an adapter of another base, or one that is not whole.
pub(super) fn read(path: &Path, config: &[u8], bytes: &[u8], model: &ModelConfig) -> Result<ForeignAdapter, Fault> {
    let sites = Sites::of(model);
    let config = parse(config, model)?;
    let tensors = safetensors::parse(bytes).map_err(Fault::Safetensors)?;
    let mut halves = Halves::new(&sites, bytes);
    for info in &tensors {
        let parts = [(".lora_a", Half::A), (".lora_b", Half::B), (".m", Half::Magnitude)];
        let found = parts.iter().find_map(|&(end, part)| Some((info.name.strip_suffix(end)?, part)));
        let Some((site, part)) = found.and_then(|(module, part)| Some((sites.module(module)?, part))) else {
            halves.unknown(&info.name);
            continue;
        };
        // Both halves of the embedding are as its matrix is, `[vocab, r]` and `[r, hidden]`: our B and our A.
        let (part, layout) = match (sites.at(site).kind, part) {
            (ParamKind::Embedding, Half::A) => (Half::B, HalfLayout { a_transposed: false, b_transposed: false }),
            (ParamKind::Embedding, Half::B) => (Half::A, HalfLayout { a_transposed: false, b_transposed: false }),
            (_, part) => (part, HalfLayout { a_transposed: true, b_transposed: true }),
        };
        halves.add(site, part, info, layout)?;
    }
    halves.check(config.dora)?;
    let outside: Vec<String> = halves
        .numbers()
        .map(|i| sites.at(i))
        .filter(|site| site.kind.block().is_some_and(|block| block < config.first))
        .map(|site| site.module.clone())
        .collect();
    if !outside.is_empty() {
        return Err(listed("modules have tensors in the file, and lie below the blocks of num_layers", &outside).into());
    }
    let parts = halves.pairs(
        ScaleRule::AlphaOverRank,
        |_| RowOrder::Same,
        |site, rank| {
            if rank != config.rank {
                return Err(AdapterError::Rank { site: site.module.clone(), found: rank, expected: config.rank });
            }
            // Its product is multiplied by the scale itself.
            Ok(config.scale * rank as f64)
        },
    )?;
    let (dropout, base, bf16) = (config.dropout, config.base, is_bf16(&tensors));
    Ok(ForeignAdapter {
        path: path.into(),
        format: "mlx-lm folder",
        parts,
        dropout,
        bf16,
        base,
        own: None,
        fingerprint: None,
        notes: Vec::new(),
    })
}

fn parse(json: &[u8], model: &ModelConfig) -> Result<MlxConfig, AdapterError> {
    let options: Map<String, Value> =
        serde_json::from_slice(json).map_err(|e| AdapterError::Config { reason: shown(&e.to_string()) })?;
    let refuse = |key: &str, found: &Value, allowed: &str| {
        let found = shown(&found.to_string());
        AdapterError::Option { key: key.into(), found, allowed: allowed.into() }
    };
    let dora = match options.get("fine_tune_type") {
        None | Some(Value::Null) => false,
        Some(Value::String(word)) if word == "lora" || word == "dora" => word == "dora",
        Some(other) => return Err(refuse("fine_tune_type", other, "\"lora\" and \"dora\" are read")),
    };
    let nothing = Value::Null;
    let parameters = options.get("lora_parameters").unwrap_or(&nothing);
    let number = |key: &str| {
        let value = &parameters[key];
        let found = value.as_f64().filter(|x| x.is_finite());
        found.ok_or_else(|| refuse(&format!("lora_parameters.{key}"), value, "a finite number is needed"))
    };
    let (scale, rank) = (number("scale")?, &parameters["rank"]);
    if scale == 0.0 {
        return Err(refuse("lora_parameters.scale", &parameters["scale"], "a number other than 0 is needed"));
    }
    let rank = rank
        .as_u64()
        .filter(|rank| *rank > 0)
        .ok_or_else(|| refuse("lora_parameters.rank", rank, "a whole number above 0 is needed"))?;
    let dropout = if parameters["dropout"].is_null() { 0.0 } else { number("dropout")? };
    if !(0.0..1.0).contains(&dropout) {
        return Err(refuse("lora_parameters.dropout", &parameters["dropout"], "at least 0 and below 1 is needed"));
    }
    let adapted = match options.get("num_layers") {
        None | Some(Value::Null) => model.layers,
        // All of them.
        Some(value) if value.as_i64() == Some(-1) => model.layers,
        Some(value) => match value.as_u64() {
            Some(count) if count <= model.layers as u64 => count as usize,
            _ => {
                let allowed = format!("the base has {} blocks", model.layers);
                return Err(refuse("num_layers", value, &allowed));
            }
        },
    };
    let base = options.get("model").and_then(Value::as_str).map(shown);
    Ok(MlxConfig { rank, scale, dropout, dora, first: model.layers - adapted, base })
}
