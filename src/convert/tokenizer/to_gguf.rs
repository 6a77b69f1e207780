//! The arrays of a GGUF file from `tokenizer.json` and `tokenizer_config.json`.

use super::merges::to_scores;
use super::pre::{by_json, names};
use super::token_type;
use crate::convert::gguf::MetaValue;
use crate::data::SpecialTokens;
use crate::error::ConvertError;
use serde_json::Value;
use std::collections::HashMap;

/// The parts of a `tokenizer.json` that GGUF needs.
#[derive(serde::Deserialize)]
struct Json {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Model,
}

#[derive(serde::Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(serde::Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
}

/// A merge, in the newer form or the older one.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Text(String),
}

impl Merge {
    fn pair(self) -> (String, String) {
        match self {
            Self::Pair(left, right) => (left, right),
            Self::Text(text) => match text.split_once(' ') {
                Some((left, right)) => (left.into(), right.into()),
                None => (text, String::new()),
            },
        }
    }
}

/// Keys of a GGUF file for a vocabulary of `vocab` tokens; without a `tokenizer.json`, for bytes.
///
/// # Errors
/// A kind of tokenizer for which llama.cpp has no name.
pub fn to_gguf(
    json: Option<&[u8]>,
    special: &SpecialTokens,
    vocab: usize,
) -> Result<Vec<(String, MetaValue)>, ConvertError> {
    let mut keys = match json {
        Some(json) => arrays(json, vocab)?,
        None => bytes(vocab),
    };
    let end = |i: usize| special.ends.get(i).copied();
    let ids = [
        ("bos", special.bos),
        ("eos", special.eos),
        ("eot", end(0)),
        ("eom", end(1)),
        ("unknown", special.unknown),
        ("padding", special.padding),
    ];
    for (name, id) in ids.into_iter().filter_map(|(name, id)| id.map(|id| (name, id))) {
        keys.push((format!("{name}_token_id"), MetaValue::U32(id)));
    }
    // Without this key llama.cpp uses the default of the tokenizer's kind, which may differ from this model's.
    keys.push(("add_bos_token".into(), MetaValue::Bool(special.add_bos.unwrap_or(false))));
    if let Some(switch) = special.add_eos {
        keys.push(("add_eos_token".into(), MetaValue::Bool(switch)));
    }
    let mut keys: Vec<_> = keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect();
    if let Some(template) = &special.template {
        keys.push(("tokenizer.chat_template".into(), MetaValue::Text(template.clone())));
    }
    Ok(keys)
}

fn arrays(json: &[u8], vocab: usize) -> Result<Vec<(String, MetaValue)>, ConvertError> {
    let refuse = |what: String| ConvertError::Asked(format!("the model's tokenizer {what}"));
    let json: Json = serde_json::from_slice(json).map_err(|e| refuse(format!("is no tokenizer.json: {e}")))?;
    if json.model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        let kind = json.model.kind.unwrap_or_default();
        return Err(refuse(format!("is of the kind {kind:?}; BPE is what can be written to GGUF")));
    }
    let (tokens, mut types) = list(&json, vocab);
    let merges: Vec<_> = json.model.merges.into_iter().map(Merge::pair).collect();
    let mut keys = Vec::new();
    if json.model.byte_fallback {
        let prefix = json.normalizer.to_string().contains("Prepend")
            || json.pre_tokenizer["prepend_scheme"].as_str().is_some_and(|scheme| scheme != "never");
        for (kind, token) in types.iter_mut().zip(&tokens) {
            if token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') {
                *kind = token_type::BYTE;
            }
        }
        keys.push(("model".into(), MetaValue::Text("llama".into())));
        keys.push(("pre".into(), MetaValue::Text("default".into())));
        keys.push(("scores".into(), MetaValue::F32s(to_scores(&merges, &tokens))));
        keys.push(("add_space_prefix".into(), MetaValue::Bool(prefix)));
    } else {
        let pre = by_json(&json.pre_tokenizer).ok_or_else(|| {
            refuse(format!("cuts text in a way that llama.cpp has no name for here; known are {}", names()))
        })?;
        keys.push(("model".into(), MetaValue::Text("gpt2".into())));
        keys.push(("pre".into(), MetaValue::Text(pre.names[0].into())));
        let merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        keys.push(("merges".into(), MetaValue::Texts(merges)));
        keys.push(("add_space_prefix".into(), MetaValue::Bool(false)));
    }
    keys.push(("tokens".into(), MetaValue::Texts(tokens)));
    keys.push(("token_type".into(), MetaValue::I32s(types)));
    Ok(keys)
}

/// Tokens by id with their types; ids without a token get a name that no text has.
fn list(json: &Json, vocab: usize) -> (Vec<String>, Vec<i32>) {
    let mut tokens: Vec<String> = (0..vocab).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![token_type::UNUSED; vocab];
    let added = json.added_tokens.iter().map(|token| {
        let kind = if token.special { token_type::CONTROL } else { token_type::USER_DEFINED };
        (token.content.as_str(), token.id, kind)
    });
    let plain = json.model.vocab.iter().map(|(token, &id)| (token.as_str(), id, token_type::NORMAL));
    for (token, id, kind) in plain.chain(added) {
        if let Some(place) = tokens.get_mut(id as usize) {
            *place = token.into();
            types[id as usize] = kind;
        }
    }
    let unknown = json.model.unk_token.as_deref().and_then(|token| json.model.vocab.get(token));
    if let Some(kind) = unknown.and_then(|&id| types.get_mut(id as usize)) {
        *kind = token_type::UNKNOWN;
    }
    (tokens, types)
}

/// A vocabulary of bytes: each byte is the character of byte-level tokenizers for it; there are no merges.
fn bytes(vocab: usize) -> Vec<(String, MetaValue)> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut tokens: Vec<String> = Vec::new();
    for byte in 0..=255u8 {
        let code = if printable(byte) {
            byte.into()
        } else {
            next += 1;
            next - 1
        };
        tokens.push(char::from_u32(code).expect("below the surrogates").into());
    }
    let mut types = vec![token_type::NORMAL; 256];
    tokens.extend((256..vocab).map(|id| format!("[PAD{id}]")));
    types.resize(vocab.max(256), token_type::UNUSED);
    vec![
        ("model".into(), MetaValue::Text("gpt2".into())),
        ("pre".into(), MetaValue::Text("gpt-2".into())),
        ("merges".into(), MetaValue::Texts(Vec::new())),
        ("tokens".into(), MetaValue::Texts(tokens)),
        ("token_type".into(), MetaValue::I32s(types)),
    ]
}
