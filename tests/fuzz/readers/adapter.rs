//! Adapters of other programs, beside the model that the recorded ones were trained on.

use super::ended;
use std::path::Path;
use tetrad::convert::adapter::{parse_adapter_gguf, parse_peft};
use tetrad::model::ModelConfig;

fn base() -> ModelConfig {
    let plain = ModelConfig::default();
    ModelConfig { vocab: 97, hidden: 64, intermediate: 172, layers: 2, heads: 4, kv_heads: 2, tied: false, ..plain }
}

/// Configuration and tensors of a folder in one input: the length of the first, then both.
pub fn joined(config: &[u8], tensors: &Path) -> Vec<u8> {
    let tensors = std::fs::read(tensors).unwrap();
    [&(config.len() as u32).to_le_bytes()[..], config, &tensors].concat()
}

pub fn run_peft(bytes: &[u8]) -> String {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return "too short".into() };
    let (config, tensors) = rest.split_at((u32::from_le_bytes(*len) as usize).min(rest.len()));
    ended(parse_peft(Path::new("adapter"), config, tensors, &base()))
}

pub fn run_gguf(bytes: &[u8]) -> String {
    ended(parse_adapter_gguf(Path::new("adapter.gguf"), bytes, &base()))
}
