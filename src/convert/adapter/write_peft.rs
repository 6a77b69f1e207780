//! An adapter of ours as a PEFT folder.

use super::found::transposed;
use super::own::{Pair, pairs};
use super::peft::WRAPPER;
use super::write_prefix::export_prefix;
use crate::checkpoint::Adapter;
use crate::convert::export::Folder;
use crate::convert::quants::Kind;
use crate::convert::safetensors;
use crate::error::{AdapterError, ConvertError};
use crate::model::{AdapterConfig, AdapterKind, AdapterScale, AdapterWeights, MatrixSite};
use half::bf16;
use serde_json::{Map, Value, json};
use std::path::Path;
use zerocopy::IntoBytes;

/// The member of the tensors' metadata that holds what our own file says, for a way back without loss.
pub(super) const OWN: &str = "tetrad";

/// Files of a folder that belong to another adapter once this one is in it.
pub(super) const STALE: [&str; 4] =
    ["adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors", "adapter_config.json"];

/// Writes an adapter to a folder as PEFT's `save_pretrained` does: `adapter_config.json` and
/// `adapter_model.safetensors`. A learned scale is multiplied into B, or into the keys and values of a prefix.
///
/// # Errors
/// What PEFT does not have; a folder that cannot be written, after which none of the new files is left.
pub fn export_peft(adapter: &Adapter, dir: &Path) -> Result<(), ConvertError> {
    let Some(config) = &adapter.meta.adapter else {
        return Err(ConvertError::Asked("the file is a model and no adapter".into()));
    };
    match config.kind {
        AdapterKind::Lora | AdapterKind::None => {}
        AdapterKind::Prefix => return export_prefix(adapter, config, dir),
        AdapterKind::Bottleneck => {
            let what = "an adapter of kind bottleneck".to_owned();
            let instead = "PEFT has no such adapters: use it here, from its own file";
            let source = Box::new(AdapterError::Inexpressible { what, format: "a PEFT folder", instead });
            return Err(ConvertError::Adapter { path: dir.into(), source });
        }
    }
    let pairs = pairs(adapter);
    let mut folder = Folder::open(dir, |name| STALE.contains(&name))?;
    let kind = match config.weights {
        // What was multiplied by a scale may have more bits.
        AdapterWeights::Bf16 if config.scale != AdapterScale::Learned => Kind::Bf16,
        _ => Kind::F32,
    };
    let mut tensors = Vec::new();
    for pair in &pairs {
        let (rank, module) = (pair.site.rank as u64, pair.site.matrix.path());
        let [outputs, inputs] = pair.site.matrix.shape(&adapter.meta.model).map(|side| side as u64);
        if pair.site.matrix == MatrixSite::Embedding {
            // A row of the embedding is an output here and an input there.
            tensors.push((format!("{WRAPPER}{module}.lora_embedding_A"), vec![rank, outputs], kind));
            tensors.push((format!("{WRAPPER}{module}.lora_embedding_B"), vec![inputs, rank], kind));
            continue;
        }
        tensors.push((format!("{WRAPPER}{module}.lora_A.weight"), vec![rank, inputs], kind));
        tensors.push((format!("{WRAPPER}{module}.lora_B.weight"), vec![outputs, rank], kind));
        if pair.magnitude.is_some() {
            tensors.push((format!("{WRAPPER}{module}.lora_magnitude_vector"), vec![outputs], Kind::F32));
        }
    }
    let header = own_header(adapter, &tensors);
    let data: u64 =
        tensors.iter().map(|(_, dims, kind)| dims.iter().product::<u64>() * kind.block_bytes() as u64).sum();
    folder.put(STALE[0], header.len() as u64 + data, |out| {
        use std::io::Write;
        out.write_all(&header)?;
        for pair in &pairs {
            let rank = pair.site.rank;
            let halves = match pair.site.matrix {
                MatrixSite::Embedding => {
                    let b = pair.b();
                    [transposed(&b, b.len() / rank, rank), transposed(&pair.a, rank, pair.a.len() / rank)]
                }
                _ => [pair.a.to_vec(), pair.b()],
            };
            for values in halves {
                match kind {
                    Kind::F32 => out.write_all(values.as_bytes())?,
                    _ => {
                        let halves: Vec<u8> = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
                        out.write_all(&halves)?;
                    }
                }
            }
            out.write_all(pair.magnitude.unwrap_or_default().as_bytes())?;
        }
        Ok(())
    })?;
    finished(folder, &peft_config(config, &pairs, adapter.meta.model.layers))
}

/// The header of a file of these tensors, with what our own file says.
pub(super) fn own_header(adapter: &Adapter, tensors: &[(String, Vec<u64>, Kind)]) -> Vec<u8> {
    let mut told = Map::new();
    told.insert("format".into(), "pt".into());
    told.insert(OWN.into(), Value::from(adapter.meta.to_map()).to_string().into());
    safetensors::header_with(told, tensors)
}

/// Writes the configuration beside the tensors.
pub(super) fn finished(mut folder: Folder<'_>, config: &Value) -> Result<(), ConvertError> {
    let json = serde_json::to_vec_pretty(config).expect("JSON");
    folder.small("adapter_config.json", &json)?;
    folder.finish()
}

/// `adapter_config.json`; options that are not there have PEFT's defaults.
fn peft_config(config: &AdapterConfig, pairs: &[Pair<'_>], layers: usize) -> Value {
    let alphas: Vec<f64> = pairs.iter().map(|pair| alpha(config, pair)).collect();
    let ranks: Vec<f64> = pairs.iter().map(|pair| pair.site.rank as f64).collect();
    let (names, blocks) = targets(pairs, layers);
    let usual =
        |numbers: &[f64], of: f64| if numbers.contains(&of) { of } else { numbers.first().copied().unwrap_or(of) };
    let (rank, usual_alpha) = (usual(&ranks, config.rank as f64), usual(&alphas, config.alpha));
    let others = |numbers: &[f64], usual: f64| -> Value {
        let other = pairs.iter().zip(numbers).filter(|(_, number)| **number != usual);
        other.map(|(pair, number)| (pair.site.matrix.path(), whole(*number))).collect::<Map<_, _>>().into()
    };
    json!({
        "alpha_pattern": others(&alphas, usual_alpha),
        "auto_mapping": null,
        "base_model_name_or_path": null,
        "bias": "none",
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": blocks,
        "lora_alpha": whole(usual_alpha),
        "lora_bias": false,
        "lora_dropout": config.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": whole(rank),
        "rank_pattern": others(&ranks, rank),
        "revision": null,
        "target_modules": names,
        "task_type": "CAUSAL_LM",
        "use_dora": config.magnitude,
        "use_rslora": config.scale == AdapterScale::RsLora,
    })
}

/// The alpha that gives a pair's factor: one of those in the settings, since dividing and multiplying need not come back.
fn alpha(config: &AdapterConfig, pair: &Pair<'_>) -> f64 {
    let site = &pair.site;
    if config.scale == AdapterScale::Learned {
        return site.rank as f64;
    }
    let listed = config.alpha_pattern.iter().filter_map(|entry| entry.rsplit_once('=')?.1.trim().parse().ok());
    let known =
        std::iter::once(config.alpha).chain(listed).find(|&alpha| config.factor(site.rank, alpha) == site.factor);
    known.unwrap_or(site.factor * site.rank as f64)
}

/// Whole numbers without a point, as PEFT writes them.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { (number as i64).into() } else { number.into() }
}

/// `target_modules` and `layers_to_transform`: names where they say it all, else whole paths.
fn targets(pairs: &[Pair<'_>], layers: usize) -> (Vec<String>, Value) {
    let mut names: Vec<String> = pairs.iter().map(|pair| pair.site.matrix.module_name()).collect();
    names.sort();
    names.dedup();
    let mut blocks: Vec<usize> = pairs.iter().filter_map(|pair| pair.site.matrix.layer()).collect();
    let (in_blocks, tables) = (blocks.len(), pairs.len() - blocks.len());
    blocks.dedup();
    let all = [0, layers].contains(&blocks.len());
    // With numbers of blocks PEFT passes over what is in none.
    if (names.len() - tables) * blocks.len() != in_blocks || tables > 0 && !all {
        return (pairs.iter().map(|pair| pair.site.matrix.path()).collect(), Value::Null);
    }
    (names, if all { Value::Null } else { blocks.into() })
}
