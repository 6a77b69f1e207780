//! Export to a Hugging Face directory.

use super::Folder;
use super::rows::{FloatType, send};
use crate::checkpoint::{Checkpoint, GENERATION_CONFIG, TOKENIZER_CONFIG};
use crate::convert::hugging_face::write_config;
use crate::convert::names::RowOrder;
use crate::convert::quants::Kind;
use crate::convert::tokenizer::byte_tokenizer;
use crate::convert::{Progress, safetensors};
use crate::data::Tokenizer;
use crate::error::ConvertError;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Writes a model's values to a directory: `config.json`, `model.safetensors` (or shards of up to `shard` bytes and
/// their index), `tokenizer.json`, also of a model of bytes, `tokenizer_config.json`, `generation_config.json`. Returns the
/// names of the files with tensors. Files of another model, with which a reader would mix those of this one, are removed.
///
/// # Errors
/// A file that cannot be read or written, after which none of the new files is left; a model that has no Hugging Face
/// form.
pub fn export_hugging_face(
    checkpoint: &Checkpoint,
    float: FloatType,
    shard: u64,
    dir: &Path,
    progress: &mut Progress,
) -> Result<Vec<String>, ConvertError> {
    checkpoint.verify_weights()?;
    let meta = &checkpoint.meta;
    if meta.storage.matrix_format().simulates().is_some() {
        let what = "its weights are rounded to four bits on the fly (a simulation in storage.weights), and the \
                    values that the products see stand nowhere; train with storage.weights = \"int4\"";
        return Err(ConvertError::Asked(format!("{}: {what}", checkpoint.path().display())));
    }
    if meta.model.qkv_bias && meta.model.qk_norm {
        let what = "the model has both model.qkv_bias and model.qk_norm, which no model of transformers has";
        return Err(ConvertError::Asked(what.into()));
    }
    let mut folder = Folder::open(dir, is_part)?;
    let file = checkpoint.file();
    let tensors: Vec<(String, Vec<u64>, Kind)> = file
        .tensors()
        .iter()
        .map(|tensor| (tensor.spec.name.clone(), tensor.spec.dims.clone(), float.kind()))
        .collect();
    let shards = shards(&tensors, shard);
    let total: u64 = tensors.iter().map(bytes).sum();
    let mut done = 0;
    for (range, name) in &shards {
        let part = &tensors[range.clone()];
        let len = safetensors::header(part).len() as u64 + part.iter().map(bytes).sum::<u64>();
        folder.put(name, len, |out| {
            safetensors::write(out, part, &mut |i, sink| {
                send(&file, range.start + i, float.kind(), RowOrder::Same, &mut |bytes| {
                    done += bytes.len() as u64;
                    progress(done, total);
                    sink(bytes)
                })
            })
        })?;
    }
    if shards.len() > 1 {
        let mut map = Map::new();
        for (range, name) in &shards {
            map.extend(tensors[range.clone()].iter().map(|tensor| (tensor.0.clone(), name.clone().into())));
        }
        let json = json!({ "metadata": { "total_size": total }, "weight_map": map });
        folder.small(INDEX, &serde_json::to_vec_pretty(&json).expect("a JSON value is JSON"))?;
    }
    let own = checkpoint.tokenizer();
    let tokenizer = match &own {
        Some(json) => Tokenizer::from_json(json)?,
        None => Tokenizer::bytes(),
    };
    let special = checkpoint.special_tokens(&tokenizer);
    folder.small("config.json", &write_config(&meta.model, float.torch(), special.bos, special.eos))?;
    let (json, told) = match own {
        Some(json) => (json, with_class(checkpoint.attachment(TOKENIZER_CONFIG))),
        None => (byte_tokenizer(), of_bytes(special.template)),
    };
    folder.small("tokenizer.json", &json)?;
    folder.small("tokenizer_config.json", &told)?;
    if let Some(generation) = checkpoint.attachment(GENERATION_CONFIG) {
        folder.small("generation_config.json", &generation)?;
    }
    folder.finish()?;
    Ok(shards.into_iter().map(|(_, name)| name).collect())
}

/// The class that does what `tokenizer.json` says and nothing else. Where none is named, transformers 4 takes the model's
/// own, and LLaMA's puts a beginning of text of its own before every text.
const CLASS: &str = "PreTrainedTokenizerFast";

/// A model's own `tokenizer_config.json`, with a class if it needs one: of a LLaMA's the model's own class is what heeds
/// `add_bos_token`.
fn with_class(told: Option<Vec<u8>>) -> Vec<u8> {
    let told = told.unwrap_or_else(|| b"{}".to_vec());
    match serde_json::from_slice::<Map<String, Value>>(&told) {
        Ok(mut map) if !map.contains_key("tokenizer_class") && !map.contains_key("add_bos_token") => {
            map.insert("tokenizer_class".into(), CLASS.into());
            serde_json::to_vec_pretty(&map).expect("a JSON value is JSON")
        }
        _ => told,
    }
}

/// The `tokenizer_config.json` of a model of bytes. Special tokens that one may name are left out: transformers would add
/// them to the vocabulary.
fn of_bytes(template: Option<String>) -> Vec<u8> {
    let mut map = json!({ "tokenizer_class": CLASS, "clean_up_tokenization_spaces": false });
    if let Some(template) = template {
        map["chat_template"] = template.into();
    }
    serde_json::to_vec_pretty(&map).expect("a JSON value is JSON")
}

const INDEX: &str = "model.safetensors.index.json";

/// Files beside the tensors that readers of a directory take for parts of its model.
const PARTS: [&str; 11] = [
    INDEX,
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// Whether a file of a directory belongs to a model that was there before.
fn is_part(name: &str) -> bool {
    let shard = name.starts_with("model-") && name.ends_with(".safetensors");
    shard || PARTS.contains(&name)
}

fn bytes(tensor: &(String, Vec<u64>, Kind)) -> u64 {
    tensor.1.iter().product::<u64>() * tensor.2.block_bytes() as u64
}

/// Consecutive tensors of up to `most` bytes each, at least one, and the names of their files.
fn shards(tensors: &[(String, Vec<u64>, Kind)], most: u64) -> Vec<(std::ops::Range<usize>, String)> {
    let mut ranges = Vec::new();
    let (mut first, mut sum) = (0, 0);
    for (i, tensor) in tensors.iter().enumerate() {
        if i > first && sum + bytes(tensor) > most {
            ranges.push(first..i);
            (first, sum) = (i, 0);
        }
        sum += bytes(tensor);
    }
    ranges.push(first..tensors.len());
    let count = ranges.len();
    let name = |i: usize| match count {
        1 => "model.safetensors".into(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    ranges.into_iter().enumerate().map(|(i, range)| (range, name(i))).collect()
}
