//! The sound model that a case changes, and files that are changed.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use tetrad::convert::gguf::{Gguf, GgufWriter, Item, MetaValue, Value as Key};
use tetrad::convert::quants::Kind;
use tetrad::convert::safetensors;
use tetrad::quant::philox;

/// Parts of a template that writes `<|role|>text<|end|>`.
const TEMPLATE: &str = "{%- for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}\
                        {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// What else is done to the model.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Make {
    /// Its weights are in so many files.
    shards: usize,
    /// Which an index names.
    index: bool,
    /// And beside them are others in one file.
    whole: bool,
    /// Files that are not there.
    without: Vec<String>,
    /// JSON files that are those of the case, and no changes of the sound ones.
    replaced: Vec<String>,
    /// Where there is a second model, changed by the case's folder of that name.
    pub again: Option<String>,
}

/// The characters that stand for bytes in a tokenizer of bytes.
pub fn byte_characters() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    (0..256).map(|byte| char::from_u32(if printable(byte) { byte } else { others.next().unwrap() }).unwrap()).collect()
}

/// A tokenizer of bytes and six special tokens.
fn tokenizer() -> Value {
    let vocab: Map<String, Value> =
        byte_characters().iter().enumerate().map(|(id, byte)| (byte.to_string(), id.into())).collect();
    let special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|begin|>"];
    let added = special.iter().enumerate().map(|(at, content)| {
        json!({ "id": 256 + at, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                   "merges": [] },
    })
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 262,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": null,
        "tie_word_embeddings": true, "hidden_act": "silu", "bos_token_id": null, "eos_token_id": null,
    })
}

/// Puts the members of `over` in the place of those of `value`.
fn lay_over(value: &mut Value, over: Value) {
    match (value, over) {
        (Value::Object(value), Value::Object(over)) => {
            for (key, new) in over {
                match new {
                    Value::Null => drop(value.remove(&key)),
                    new => lay_over(value.entry(key).or_insert(Value::Null), new),
                }
            }
        }
        (value, over) => *value = over,
    }
}

/// Copies a file, or all of a folder.
pub fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

impl Make {
    /// Makes the model in `dir`, with what is in `changes`.
    pub fn make(&self, dir: &Path, changes: &Path) {
        fs::create_dir(dir).unwrap();
        let template = json!({ "eos_token": "<|end|>", "chat_template": TEMPLATE });
        let sound = [
            ("config.json", config()),
            ("tokenizer.json", tokenizer()),
            ("tokenizer_config.json", template),
            ("generation_config.json", json!({})),
        ];
        for (name, mut value) in sound {
            match fs::read(changes.join(name)).map(|bytes| serde_json::from_slice(&bytes)) {
                Ok(Ok(over)) if self.replaced.iter().any(|replaced| replaced == name) => value = over,
                Ok(Ok(over)) => lay_over(&mut value, over),
                Ok(Err(_)) => continue,
                Err(_) => {}
            }
            let empty = value.as_object().is_some_and(Map::is_empty);
            if !empty && !self.without.iter().any(|without| without == name) {
                fs::write(dir.join(name), serde_json::to_vec_pretty(&value).unwrap()).unwrap();
            }
        }
        if !self.without.iter().any(|name| name == "model.safetensors") {
            self.weigh(dir);
        }
        for entry in fs::read_dir(changes).into_iter().flatten().map(Result::unwrap) {
            if !dir.join(entry.file_name()).exists() || entry.file_name() == "model.safetensors" {
                copy(&entry.path(), &dir.join(entry.file_name()));
            }
        }
    }

    /// Writes weights as the configuration has them.
    fn weigh(&self, dir: &Path) {
        let config: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        let tensors = tensors(&config);
        if self.shards == 0 || self.whole {
            write(&dir.join("model.safetensors"), &tensors, 1);
        }
        let mut map = Map::new();
        for (at, part) in tensors.chunks(tensors.len().div_ceil(self.shards.max(1))).enumerate().take(self.shards) {
            let name = format!("model-{:05}-of-{:05}.safetensors", at + 1, self.shards);
            write(&dir.join(&name), part, 2);
            map.extend(part.iter().map(|(tensor, ..)| (tensor.clone(), name.clone().into())));
        }
        if self.index {
            let index = json!({ "metadata": {}, "weight_map": map }).to_string();
            fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
        }
    }
}

/// Names and shapes.
fn tensors(config: &Value) -> Vec<(String, Vec<u64>, Kind)> {
    let size = |key: &str| config[key].as_u64().unwrap();
    let (hidden, inner, vocab) = (size("hidden_size"), size("intermediate_size"), size("vocab_size"));
    let kv = hidden / size("num_attention_heads") * size("num_key_value_heads");
    let mut found = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
    for layer in 0..size("num_hidden_layers") {
        let parts = [
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ];
        found.extend(parts.map(|(part, dims)| (format!("model.layers.{layer}.{part}.weight"), dims)));
    }
    found.push(("model.norm.weight".into(), vec![hidden]));
    found.into_iter().map(|(name, dims)| (name, dims, Kind::F16)).collect()
}

/// Writes tensors of numbers that follow from a seed.
fn write(path: &Path, tensors: &[(String, Vec<u64>, Kind)], seed: u32) {
    let mut out = Vec::new();
    let numbers = |at: usize| -> Vec<u8> {
        let count = tensors[at].1.iter().product::<u64>() as u32;
        let number = |i| (philox([i, at as u32, seed, 0], [3, 5])[0] as f32 / u32::MAX as f32 - 0.5) / 4.0;
        (0..count).flat_map(|i| half::f16::from_f32(number(i)).to_le_bytes()).collect()
    };
    safetensors::write(&mut out, tensors, &mut |at, sink| sink(&numbers(at))).unwrap();
    fs::write(path, out).unwrap();
}

/// A key as a case names it.
fn key(value: &toml::Value) -> MetaValue {
    match value {
        toml::Value::Boolean(value) => MetaValue::Bool(*value),
        toml::Value::Integer(value) => MetaValue::U32(*value as u32),
        toml::Value::Float(value) => MetaValue::F32(*value as f32),
        toml::Value::String(text) => MetaValue::Text(text.clone()),
        toml::Value::Array(all) => MetaValue::I32s(all.iter().map(|n| n.as_integer().unwrap() as i32).collect()),
        other => panic!("{other} is no key of GGUF"),
    }
}

/// Gives a GGUF file of this program keys.
pub fn set_keys(path: &Path, keys: &toml::Table) {
    let bytes = fs::read(path).unwrap();
    let file = Gguf::parse(&bytes).unwrap();
    let mut writer = GgufWriter::default();
    for (name, value) in &file.metadata {
        let kept = match *value {
            Key::Array(all) => match all.texts() {
                Some(texts) => MetaValue::Texts(texts.into_iter().map(Into::into).collect()),
                // The only ones that this program writes beside texts: types of tokens, and their scores.
                None if name.ends_with("scores") => {
                    MetaValue::F32s(all.numbers().unwrap().into_iter().map(|n| n as f32).collect())
                }
                None => MetaValue::I32s(all.numbers().unwrap().into_iter().map(|n| n as i32).collect()),
            },
            Key::Bool(value) => MetaValue::Bool(value),
            Key::Float(value) => MetaValue::F32(value as f32),
            Key::Whole(value) => MetaValue::U32(value as u32),
            Key::Text(text) => MetaValue::Text(text.into()),
            Key::Bytes(_) => panic!("{name} is no text"),
        };
        writer.key(*name, keys.get(*name).map_or(kept, key));
    }
    for (name, value) in keys.iter().filter(|(name, _)| file.get(name).is_none()) {
        writer.key(name.clone(), key(value));
    }
    for tensor in &file.tensors {
        writer.tensor(Item { name: tensor.name.clone(), dims: tensor.dims.clone(), kind: tensor.kind });
    }
    let mut out = Vec::new();
    writer.write(&mut out, &mut |at, sink| sink(&bytes[file.tensors[at].range.clone()])).unwrap();
    fs::write(path, out).unwrap();
}
