//! PEFT's folder: `adapter_config.json` and `adapter_model.safetensors`.

use super::found::{Half, HalfLayout, Halves, floats, is_bf16, listed};
use super::patterns::shown;
use super::peft_config::{self, LoraConfig, PeftConfig};
use super::site::{Site, Sites};
use super::write_peft::OWN;
use super::{ForeignAdapter, Parts};
use crate::convert::gguf::TensorInfo;
use crate::convert::names::RowOrder;
use crate::convert::safetensors;
use crate::error::{AdapterError, SafetensorsError};
use crate::model::{ModelConfig, ParamKind};
use serde_json::{Map, Value};
use std::path::Path;

/// The tensor of a prefix.
pub(super) const PREFIX: &str = "prompt_embeddings";

/// How PEFT's wrapper calls the model in it.
pub(super) const WRAPPER: &str = "base_model.model.";

/// Why a folder cannot be read.
pub(super) enum Fault {
    Adapter(AdapterError),
    Safetensors(SafetensorsError),
}

impl From<AdapterError> for Fault {
    fn from(error: AdapterError) -> Self {
        Self::Adapter(error)
    }
}

/// Reads the adapter whose configuration and tensors these are.
///
/// # Errors
/// Invalid files; an adapter of another base, or one that is not whole.
pub(super) fn read(path: &Path, config: &[u8], bytes: &[u8], model: &ModelConfig) -> Result<ForeignAdapter, Fault> {
    let sites = Sites::of(model);
    let parsed = peft_config::parse(config, &sites)?;
    let tensors = safetensors::parse(bytes).map_err(Fault::Safetensors)?;
    let mut notes = Vec::new();
    let (parts, dropout) = match parsed {
        PeftConfig::Lora(config) => (lora(&config, bytes, &tensors, &sites, &mut notes)?, config.dropout),
        PeftConfig::Prefix { length } => (prefix(length, bytes, &tensors, model)?, 0.0),
    };
    let (base, bf16, own) = (peft_config::base_name(config), is_bf16(&tensors), own(bytes));
    let fingerprint = own.as_ref().and_then(|own| Some(own.get("base")?["fingerprint"].as_str()?.to_owned()));
    Ok(ForeignAdapter { path: path.into(), format: "PEFT folder", parts, dropout, bf16, base, own, fingerprint, notes })
}

fn lora(
    config: &LoraConfig,
    bytes: &[u8],
    tensors: &[TensorInfo],
    sites: &Sites,
    notes: &mut Vec<String>,
) -> Result<Parts, AdapterError> {
    let mut halves = Halves::new(sites, bytes);
    let mut names = Vec::new();
    for info in tensors {
        if let Some(site) = base_layer(&info.name, sites) {
            let (found, expected) = (&info.dims, [site.rows as u64, site.cols as u64]);
            if found != &expected {
                let tensor = info.name.clone();
                let (rows, cols, expected) = (site.rows, site.cols, format!("{expected:?}"));
                return Err(AdapterError::Shape { tensor, found: found.clone(), expected, rows, cols });
            }
            notes.push(format!(
                "{} is the base's own matrix, which PEFT saves beside a pair; that of the packed base is used",
                shown(&info.name)
            ));
            continue;
        }
        let Some((module, part, embedding, name)) = split(&info.name) else {
            halves.unknown(&info.name);
            continue;
        };
        let Some(site) = sites.module(module).filter(|&i| (sites.at(i).kind == ParamKind::Embedding) == embedding)
        else {
            halves.unknown(&info.name);
            continue;
        };
        if !names.contains(&name) {
            names.push(name);
        }
        let (part, layout) = match (part, embedding) {
            (part, false) => (part, HalfLayout { a_transposed: false, b_transposed: false }),
            // A row of the embedding is an input here and an output there.
            (Half::A, true) => (Half::B, HalfLayout { a_transposed: true, b_transposed: true }),
            (Half::B, true) => (Half::A, HalfLayout { a_transposed: true, b_transposed: true }),
            (Half::Magnitude, true) => (part, HalfLayout { a_transposed: true, b_transposed: true }),
        };
        halves.add(site, part, info, layout)?;
    }
    if let [first, second, ..] = names.as_slice() {
        let names = [first, second].map(|name| name.unwrap_or("(no name)").to_owned());
        return Err(listed("adapters are in one file; save each on its own", &names));
    }
    halves.check(config.dora)?;
    covered(config, &halves, sites)?;
    let parts = halves.pairs(config.rule, |_| RowOrder::Same, |site, rank| config.alpha(site, rank))?;
    if let Parts::LowRank { pairs, .. } = &parts {
        let large = pairs.iter().find(|pair| {
            let site = sites.iter().find(|site| site.kind == pair.site);
            site.is_some_and(|site| pair.rank > site.rows.min(site.cols))
        });
        notes.extend(
            large.map(|pair| format!("rank {} of {} is larger than its matrix can use", pair.rank, pair.site.name())),
        );
    }
    Ok(parts)
}

/// The matrix whose copy a tensor is: PEFT saves those of embedding and head that have a pair beside them.
fn base_layer<'a>(name: &str, sites: &'a Sites) -> Option<&'a Site> {
    let module = name.strip_prefix(WRAPPER).unwrap_or(name).strip_suffix(".base_layer.weight")?;
    let site = sites.at(sites.module(module)?);
    matches!(site.kind, ParamKind::Embedding | ParamKind::Head).then_some(site)
}

/// What our own file said, if one was written here.
fn own(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_str(&safetensors::told(bytes, OWN)?).ok()
}

/// Module path, part, whether it is of an embedding, and the adapter's name where the file gives it.
fn split(name: &str) -> Option<(&str, Half, bool, Option<&str>)> {
    let name = name.strip_prefix(WRAPPER).unwrap_or(name);
    let words = [
        (".lora_A.", Half::A, false),
        (".lora_B.", Half::B, false),
        (".lora_embedding_A", Half::A, true),
        (".lora_embedding_B", Half::B, true),
        (".lora_magnitude_vector", Half::Magnitude, false),
    ];
    let (at, word, part, embedding) =
        words.iter().find_map(|&(word, part, embedding)| Some((name.find(word)?, word, part, embedding)))?;
    let (module, rest) = (&name[..at], &name[at + word.len()..]);
    // `.lora_A.weight`, and `.lora_A.NAME.weight` where no tool of PEFT's saved it.
    let given = match (embedding || part == Half::Magnitude, rest) {
        (false, "weight") | (true, "" | ".weight") => None,
        (false, rest) => Some(rest.strip_suffix(".weight")?),
        (true, rest) => Some(rest.strip_prefix('.')?.trim_end_matches(".weight")),
    };
    let plain = given.is_none_or(|given| !given.is_empty() && !given.contains('.'));
    // A magnitude of an embedding is told by its module.
    let embedding = embedding || part == Half::Magnitude && module.ends_with("embed_tokens");
    plain.then_some((module, part, embedding, given))
}

/// Whether the file has exactly the matrices that the configuration names.
fn covered(config: &LoraConfig, halves: &Halves<'_>, sites: &Sites) -> Result<(), AdapterError> {
    let found: Vec<usize> = halves.numbers().collect();
    let names = |numbers: &mut dyn Iterator<Item = &usize>| -> Vec<String> {
        numbers.map(|&i| sites.at(i).module.clone()).collect()
    };
    let missing = names(&mut config.targets.iter().filter(|&i| found.binary_search(i).is_err()));
    if !missing.is_empty() {
        return Err(listed("modules are among target_modules, and the file has no tensors of them", &missing));
    }
    let surplus = names(&mut found.iter().filter(|&i| config.targets.binary_search(i).is_err()));
    if !surplus.is_empty() {
        return Err(listed("modules have tensors in the file, and are not among target_modules", &surplus));
    }
    Ok(())
}

/// `[P, block, key or value, kv width]`.
fn prefix(length: u64, bytes: &[u8], tensors: &[TensorInfo], model: &ModelConfig) -> Result<Parts, AdapterError> {
    let surplus: Vec<String> =
        tensors.iter().filter(|info| info.name != PREFIX).map(|info| shown(&info.name)).collect();
    if !surplus.is_empty() {
        return Err(listed("tensors are none of a prefix", &surplus));
    }
    let Some(info) = tensors.first() else {
        return Err(listed("tensor of a prefix is missing", &[PREFIX]));
    };
    let (kv, layers) = (model.kv_width(), model.layers);
    if info.dims != [length, 2 * layers as u64 * kv as u64] {
        let allowed = format!(
            "the base needs [{length}, {}]: num_virtual_tokens by keys and values of {layers} blocks of {kv}",
            2 * layers * kv
        );
        let (key, found) = (PREFIX.into(), format!("{:?}", info.dims));
        return Err(AdapterError::Option { key, found, allowed });
    }
    let values = floats(bytes, info)?;
    let length = length as usize;
    let part = |block: usize, which: usize| -> Vec<f32> {
        let at = (2 * block + which) * kv;
        values.chunks_exact(2 * layers * kv).flat_map(|token| &token[at..at + kv]).copied().collect()
    };
    let blocks = (0..layers).map(|block| [part(block, 0), part(block, 1)]).collect();
    Ok(Parts::Prefix { length, blocks })
}
