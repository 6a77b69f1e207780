//! An adapter of ours as a GGUF file for llama.cpp's `--lora`.

use super::found::transposed;
use super::gguf::{FINGERPRINT, order};
use super::own::{Pair, pairs};
use crate::checkpoint::Adapter;
use crate::convert::export::{architecture, put};
use crate::convert::gguf::{GgufWriter, Item, MetaValue};
use crate::convert::names::RowOrder;
use crate::convert::quants::Kind;
use crate::error::{AdapterError, ConvertError};
use crate::model::{AdapterKind, MatrixSite};
use std::path::Path;
use zerocopy::IntoBytes;

/// Writes an adapter to a GGUF file in float32, atomically. llama.cpp multiplies by alpha / r with one alpha for all
/// pairs: where factors do not have that form, alpha is 0, which means a factor of 1, and each factor is in its B.
///
/// # Errors
/// An adapter that is no pairs of matrices; a file that cannot be written; a base that has no architecture of GGUF.
pub fn export_adapter_gguf(adapter: &Adapter, path: &Path) -> Result<(), ConvertError> {
    let model = &adapter.meta.model;
    let pairs = pairs(adapter);
    let Some(config) = &adapter.meta.adapter else {
        return Err(ConvertError::Asked("the file is a model and no adapter".into()));
    };
    let beyond = match config.kind {
        AdapterKind::Lora if !config.magnitude => None,
        AdapterKind::Lora => Some((
            "a trained magnitude of rows (DoRA, adapter.magnitude)".to_owned(),
            "llama.cpp has none: `merge` it into its base and export that",
        )),
        kind => Some((
            format!("an adapter of kind {}", kind.name()),
            "llama.cpp has pairs of matrices only: use it here, from its own file",
        )),
    };
    if let Some((what, instead)) = beyond {
        let format = "a GGUF adapter";
        let source = Box::new(AdapterError::Inexpressible { what, format, instead });
        return Err(ConvertError::Adapter { path: path.into(), source });
    }
    let beside_table = |pair: &&Pair<'_>| pair.site.matrix.layer().is_none();
    if let Some(pair) = pairs.iter().find(beside_table).filter(|_| model.tied) {
        let what = format!("a pair beside {} of a model whose head is tied", pair.site.matrix.path());
        let instead = "llama.cpp has one name for embedding and head there: `merge` it into its base and export that";
        let source = Box::new(AdapterError::Inexpressible { what, format: "a GGUF adapter", instead });
        return Err(ConvertError::Adapter { path: path.into(), source });
    }
    let alpha = common_alpha(&pairs);
    let mut writer = GgufWriter::default();
    writer.key("general.architecture", MetaValue::Text(architecture(model)?.into()));
    writer.key("general.type", MetaValue::Text("adapter".into()));
    writer.key("adapter.type", MetaValue::Text("lora".into()));
    writer.key("adapter.lora.alpha", MetaValue::F32(alpha.unwrap_or(0.0)));
    if let Some(base) = &adapter.meta.base {
        writer.key(FINGERPRINT, MetaValue::Text(base.fingerprint.clone()));
    }
    for pair in &pairs {
        let rank = pair.site.rank as u64;
        let name = pair.site.matrix.kind().gguf_name();
        let [outputs, inputs] = pair.site.matrix.shape(model).map(|side| side as u64);
        // Of the embedding `lora_a` has a row for each token: it is our B.
        let [a, b] = match pair.site.matrix {
            MatrixSite::Embedding => [vec![outputs, rank], vec![inputs, rank]],
            _ => [vec![rank, inputs], vec![outputs, rank]],
        };
        writer.tensor(Item { name: format!("{name}.lora_a"), dims: a, kind: Kind::F32 });
        writer.tensor(Item { name: format!("{name}.lora_b"), dims: b, kind: Kind::F32 });
    }
    let mut send = |i: usize, sink: &mut crate::convert::Sink<'_>| {
        let (pair, first) = (&pairs[i / 2], i.is_multiple_of(2));
        let embedding = pair.site.matrix == MatrixSite::Embedding;
        if first != embedding {
            return match embedding {
                false => sink(pair.a.as_bytes()),
                true => sink(transposed(&pair.a, pair.site.rank, model.hidden).as_bytes()),
            };
        }
        let mut b = pair.b();
        if alpha.is_none() {
            b.iter_mut().for_each(|x| *x = (f64::from(*x) * pair.site.factor) as f32);
        }
        sink(in_their_order(&b, pair.site.rank, order(pair.site.matrix.kind(), model)).as_bytes())
    };
    put(path, writer.file_len(), |out| writer.write(out, &mut send))
}

/// The alpha from which llama.cpp gets every pair's factor, if there is one.
fn common_alpha(pairs: &[Pair<'_>]) -> Option<f32> {
    let of = |pair: &Pair<'_>| (pair.site.factor * pair.site.rank as f64) as f32;
    let alpha = of(&pairs[0]);
    let gives = |pair: &Pair<'_>| alpha / pair.site.rank as f32 == pair.site.factor as f32;
    // One that is 0 would mean a factor of 1.
    (alpha != 0.0 && pairs.iter().all(gives)).then_some(alpha)
}

fn in_their_order(ours: &[f32], width: usize, order: RowOrder) -> Vec<f32> {
    (0..ours.len() / width).flat_map(|row| &ours[order.ours(row) * width..][..width]).copied().collect()
}
