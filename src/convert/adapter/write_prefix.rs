//! A prefix of ours as a PEFT folder.

use super::own::prefix_blocks;
use super::peft::PREFIX;
use super::write_peft::{STALE, finished, own_header};
use crate::checkpoint::Adapter;
use crate::convert::export::Folder;
use crate::convert::quants::Kind;
use crate::error::{AdapterError, ConvertError};
use crate::model::AdapterConfig;
use serde_json::json;
use std::io::Write;
use std::path::Path;
use zerocopy::IntoBytes;

/// Writes a prefix to a folder: `prompt_embeddings`, `[P, block, key or value, K D]` in float32, with learned scales multiplied
/// in.
///
/// # Errors
/// A prefix that is compensated or stands in some of the blocks only; a folder that cannot be written, after which none of the
/// new files is left.
pub(super) fn export_prefix(adapter: &Adapter, config: &AdapterConfig, dir: &Path) -> Result<(), ConvertError> {
    let model = &adapter.meta.model;
    let refused = |what: &str| {
        let (what, format) = (what.into(), "a PEFT folder");
        let instead = "no other program has one: use it here, from its own file";
        let source = Box::new(AdapterError::Inexpressible { what, format, instead });
        ConvertError::Adapter { path: dir.into(), source }
    };
    if config.compensate {
        return Err(refused("a compensated prefix (adapter.compensate)"));
    }
    let blocks = prefix_blocks(adapter);
    if blocks.len() != model.layers {
        return Err(refused("a prefix of some of the blocks (adapter.layers)"));
    }
    let (length, kv) = (config.length, model.kv_width());
    let row = |token: usize| {
        blocks.iter().flatten().flat_map(move |part| &part[token * kv..][..kv]).copied().collect::<Vec<f32>>()
    };
    let dims = vec![length as u64, 2 * (model.layers * kv) as u64];
    let header = own_header(adapter, &[(PREFIX.into(), dims, Kind::F32)]);
    let mut folder = Folder::open(dir, |name| STALE.contains(&name))?;
    folder.put(STALE[0], header.len() as u64 + 8 * (length * model.layers * kv) as u64, |out| {
        out.write_all(&header)?;
        (0..length).try_for_each(|token| out.write_all(row(token).as_bytes()))
    })?;
    let json = json!({
        "auto_mapping": null,
        "base_model_name_or_path": null,
        "encoder_hidden_size": kv,
        "inference_mode": true,
        "num_attention_heads": model.kv_heads,
        "num_layers": model.layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": length,
        "peft_type": "PREFIX_TUNING",
        "prefix_projection": false,
        "revision": null,
        "task_type": "CAUSAL_LM",
        "token_dim": kv,
    });
    finished(folder, &json)
}
