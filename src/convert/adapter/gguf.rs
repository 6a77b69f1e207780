//! llama.cpp's adapters: a GGUF file with a pair of tensors beside each matrix's name.

use super::found::{Half, HalfLayout, Halves, is_bf16};
use super::site::Sites;
use super::{ForeignAdapter, ScaleRule};
use crate::convert::export::architecture;
use crate::convert::gguf::{Gguf, Value};
use crate::convert::names::RowOrder;
use crate::error::{AdapterError, ConvertError, GgufError};
use crate::model::{BlockParam, ModelConfig, ParamKind};
use std::path::Path;

/// Suffix of norms' gains, which llama.cpp passes over.
const NORM: &str = "_norm.weight";

/// The key for the fingerprint of an adapter's base, which llama.cpp passes over as it does all that it does not know.
pub(super) const FINGERPRINT: &str = "tetrad.base.fingerprint";

/// Whether a GGUF file is an adapter.
pub(super) fn is_adapter(gguf: &Gguf<'_>) -> bool {
    gguf.get("general.type").and_then(Value::text) == Some("adapter")
}

/// The order in which GGUF's models keep the rows of a matrix's B.
pub(in crate::convert) fn order(kind: ParamKind, model: &ModelConfig) -> RowOrder {
    match kind {
        ParamKind::Block(_, BlockParam::Query | BlockParam::Key) if architecture(model).ok() == Some("llama") => {
            RowOrder::Paired(model.head_dim())
        }
        _ => RowOrder::Same,
    }
}

/// Reads an adapter.
///
/// # Errors
/// A damaged file; an adapter of another base, or one that is not whole.
pub(super) fn read(path: &Path, bytes: &[u8], model: &ModelConfig) -> Result<ForeignAdapter, ConvertError> {
    let failed = |source| ConvertError::Gguf { path: path.into(), source };
    let gguf = Gguf::parse(bytes).map_err(failed)?;
    let alpha = keys(&gguf, model).map_err(failed)?;
    let refused = |source| ConvertError::Adapter { path: path.into(), source: Box::new(source) };
    if let Some(tokens) = gguf.get("adapter.alora.invocation_tokens") {
        let (key, found) = ("adapter.alora.invocation_tokens".into(), tokens.describe());
        let allowed = "the adapter would begin to act at a certain token, which is not read".into();
        return Err(refused(AdapterError::Option { key, found, allowed }));
    }
    let sites = Sites::of(model);
    let (by_name, mut halves) = (sites.by_gguf(model), Halves::new(&sites, bytes));
    let mut notes = Vec::new();
    let mut norms = 0;
    for info in &gguf.tensors {
        let (base, part) = match info.name.strip_suffix(".lora_a") {
            Some(base) => (base, Half::A),
            None => match info.name.strip_suffix(".lora_b") {
                Some(base) => (base, Half::B),
                None if info.name.ends_with(NORM) => {
                    norms += 1;
                    continue;
                }
                None => {
                    halves.unknown(&info.name);
                    continue;
                }
            },
        };
        let Some(&site) = by_name.get(base) else {
            halves.unknown(&info.name);
            continue;
        };
        // Of the embedding A has a row for each token, and is our B.
        let (part, layout) = match (sites.at(site).kind, part) {
            (ParamKind::Embedding, Half::A) => (Half::B, HalfLayout { a_transposed: true, b_transposed: false }),
            (ParamKind::Embedding, _) => (Half::A, HalfLayout { a_transposed: true, b_transposed: false }),
            (_, part) => (part, HalfLayout { a_transposed: false, b_transposed: false }),
        };
        halves.add(site, part, info, layout).map_err(refused)?;
    }
    if norms > 0 {
        notes.push(format!("{norms} gains of norms are left out, as llama.cpp leaves them out"));
    }
    halves.check(false).map_err(refused)?;
    // An alpha of 0 stands for the rank: the factor is 1.
    let of_rank = |_: &_, rank| Ok(if alpha == 0.0 { rank as f64 } else { alpha });
    let order = |kind| order(kind, model);
    let parts = halves.pairs(ScaleRule::AlphaOverRank, order, of_rank).map_err(refused)?;
    let bf16 = is_bf16(&gguf.tensors);
    let fingerprint = gguf.get(FINGERPRINT).and_then(Value::text).map(str::to_owned);
    Ok(ForeignAdapter {
        path: path.into(),
        format: "GGUF",
        parts,
        dropout: 0.0,
        bf16,
        base: None,
        own: None,
        fingerprint,
        notes,
    })
}

/// Checks what the keys say; alpha.
fn keys(gguf: &Gguf<'_>, model: &ModelConfig) -> Result<f64, GgufError> {
    let same = |key: &str, expected: &str| {
        let found = gguf.need(key, "a text", Value::text)?;
        let wrong = || GgufError::KeyValue {
            key: key.into(),
            found: Value::Text(found).describe(),
            needed: format!("{expected:?}"),
        };
        if found == expected { Ok(()) } else { Err(wrong()) }
    };
    same("general.type", "adapter")?;
    same("adapter.type", "lora")?;
    // One that no model has was refused when the base was made.
    same("general.architecture", architecture(model).unwrap_or("llama"))?;
    let finite = |value: Value<'_>| value.number().filter(|alpha| alpha.is_finite());
    gguf.need("adapter.lora.alpha", "a finite number", finite)
}
