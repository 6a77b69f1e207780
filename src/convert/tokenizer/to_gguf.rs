//! The arrays of a GGUF file from `tokenizer.json` and `tokenizer_config.json`.

use super::bytes::alphabet;
use super::pre::{by_json, names};
use super::token_type;
use crate::convert::gguf::MetaValue;
use crate::data::SpecialTokens;
use crate::data::tokenize::merges::to_scores;
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
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
}

#[derive(serde::Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
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

/// A `tokenizer.json` of the kind that GGUF has a form for.
fn parse(json: &[u8]) -> Result<Json, ConvertError> {
    let refuse = |what: String| ConvertError::Asked(format!("the model's tokenizer {what}"));
    let unread = |e| refuse(format!("is no tokenizer.json: {e}"));
    let json: serde_json::Value = serde_json::from_slice(json).map_err(unread)?;
    // Other kinds have vocabularies of another form.
    match json["model"]["type"].as_str() {
        None | Some("BPE") => serde_json::from_value(json).map_err(unread),
        Some(kind) => Err(refuse(format!(
            "is of the kind {kind:?}, and only BPE can be written to GGUF; export a directory (-o DIR), which keeps the tokenizer"
        ))),
    }
}

fn arrays(json: &[u8], vocab: usize) -> Result<Vec<(String, MetaValue)>, ConvertError> {
    let refuse = |what: String| ConvertError::Asked(format!("the model's tokenizer {what}"));
    let json = parse(json)?;
    let affixes = [&json.model.continuing_subword_prefix, &json.model.end_of_word_suffix];
    if affixes.into_iter().flatten().any(|affix| !affix.is_empty()) {
        return Err(refuse(
            "marks beginnings or ends of words (end_of_word_suffix), which GGUF has no form for".into(),
        ));
    }
    if let Some(kind) = unknown_normalizer(&json.normalizer, json.model.byte_fallback) {
        return Err(refuse(format!("changes text before it is cut (normalizer {kind}), which GGUF has no form for")));
    }
    let (tokens, mut types) = list(&json, vocab);
    let merges: Vec<_> = json.model.merges.into_iter().map(Merge::pair).collect();
    let mut keys = Vec::new();
    if json.model.byte_fallback {
        if let Some(kind) = cuts_otherwise(&json.pre_tokenizer) {
            return Err(refuse(format!(
                "falls back to bytes and cuts text by {kind}, and llama.cpp's kind with such a fallback cuts at spaces alone"
            )));
        }
        let prefix = json.normalizer.to_string().contains("Prepend") || prepends_space(&json.pre_tokenizer);
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

/// What the tokenizer does that a GGUF file cannot say, and that does not make another tokenizer of it; a sentence each.
///
/// # Errors
/// What is no `tokenizer.json`.
pub fn left_out(json: &[u8]) -> Result<Vec<String>, ConvertError> {
    let json = parse(json)?;
    let tokens = |such: fn(&Added) -> bool| {
        let mut found = json.added_tokens.iter().filter(|token| such(token));
        let first = found.next()?;
        Some(match found.count() {
            0 => format!("{:?}", first.content),
            others => format!("{:?} and {others} more tokens", first.content),
        })
    };
    let mut notes = Vec::new();
    if let Some(found) = tokens(|token| token.lstrip || token.rstrip) {
        notes.push(format!(
            "spaces beside {found} are swallowed (lstrip, rstrip), which GGUF cannot say; they stay there"
        ));
    }
    if let Some(found) = tokens(|token| token.single_word) {
        notes.push(format!(
            "{found}: found as whole words only (single_word), which GGUF cannot say; found in words there"
        ));
    }
    if json.normalizer.to_string().contains("\"NFC\"") {
        notes.push(
            "letters and their accents are composed first (normalizer NFC), which llama.cpp does not do; give it \
                    composed text"
                .into(),
        );
    }
    let named = by_json(&json.pre_tokenizer).filter(|_| !json.model.byte_fallback);
    if let Some(pre) = named.filter(|pre| pre.ignore_merges != json.model.ignore_merges) {
        notes.push(format!(
            "ignore_merges is {}, and llama.cpp takes it for {} with {:?}; words that are tokens by themselves may be cut \
             otherwise there",
            json.model.ignore_merges, pre.ignore_merges, pre.names[0]
        ));
    }
    Ok(notes)
}

/// The kind of a normalizer that llama.cpp has nothing for: it composes no text, but otherwise knows SentencePiece's spaces.
fn unknown_normalizer(normalizer: &Value, sentence_piece: bool) -> Option<String> {
    let kind = normalizer["type"].as_str()?;
    match kind {
        "Sequence" => {
            let parts = normalizer["normalizers"].as_array()?;
            parts.iter().find_map(|part| unknown_normalizer(part, sentence_piece))
        }
        "NFC" => None,
        "Prepend" if sentence_piece => None,
        "Replace" if sentence_piece && normalizer["pattern"]["String"] == " " => None,
        other => Some(other.into()),
    }
}

/// The kind of a step that cuts text otherwise than SentencePiece does.
fn cuts_otherwise(pre_tokenizer: &Value) -> Option<String> {
    match pre_tokenizer["type"].as_str()? {
        "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.iter().find_map(cuts_otherwise),
        "Metaspace" => None,
        // Transformers' form of it for models that replace spaces beforehand.
        "Split" if pre_tokenizer["pattern"]["String"] == " " => None,
        other => Some(other.into()),
    }
}

/// Whether a Metaspace among the steps puts a space before a text: it does unless told otherwise, in the words of any
/// version of the library.
fn prepends_space(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        Some("Sequence") => {
            pre_tokenizer["pretokenizers"].as_array().is_some_and(|parts| parts.iter().any(prepends_space))
        }
        Some("Metaspace") => {
            match (pre_tokenizer["prepend_scheme"].as_str(), pre_tokenizer["add_prefix_space"].as_bool()) {
                (Some(scheme), _) => scheme != "never",
                (None, switch) => switch.unwrap_or(true),
            }
        }
        _ => false,
    }
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
    let mut tokens = alphabet();
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_space_is_put_before_a_text_in_the_words_of_any_version() {
        for (pre, wanted) in [
            (json!({ "type": "Metaspace", "replacement": "_" }), true),
            (json!({ "type": "Metaspace", "add_prefix_space": false }), false),
            (json!({ "type": "Metaspace", "prepend_scheme": "never", "add_prefix_space": true }), false),
            (json!({ "type": "Metaspace", "prepend_scheme": "first" }), true),
            (json!({ "type": "Sequence", "pretokenizers": [{ "type": "Metaspace" }] }), true),
            (json!(null), false),
        ] {
            assert_eq!(prepends_space(&pre), wanted, "{pre}");
        }
    }

    #[test]
    fn other_kinds_of_tokenizers_are_named() {
        let unigram = json!({ "model": { "type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.0]] } }).to_string();
        let told = left_out(unigram.as_bytes()).unwrap_err().to_string();
        assert!(told.contains("is of the kind \"Unigram\", and only BPE can be written to GGUF"), "{told}");
        assert!(arrays(unigram.as_bytes(), 2).is_err());
    }

    #[test]
    fn normalizers_without_a_form_are_named() {
        let sequence = |parts: Value| json!({ "type": "Sequence", "normalizers": parts });
        let unknown = |value: Value, pieces| unknown_normalizer(&value, pieces);
        assert_eq!(unknown(json!(null), false), None);
        assert_eq!(unknown(json!({ "type": "NFC" }), false), None);
        assert_eq!(
            unknown(sequence(json!([{ "type": "NFC" }, { "type": "StripAccents" }])), false).unwrap(),
            "StripAccents"
        );
        let spaces = sequence(json!([{ "type": "Prepend" }, { "type": "Replace", "pattern": { "String": " " } }]));
        assert_eq!(unknown(spaces.clone(), true), None);
        assert_eq!(unknown(spaces, false).unwrap(), "Prepend");
        assert_eq!(unknown(json!({ "type": "Replace", "pattern": { "String": "a" } }), true).unwrap(), "Replace");
    }

    #[test]
    fn what_llama_cpp_does_otherwise_is_said() {
        let notes = |change: fn(&mut Value)| {
            let mut json = json!({
                "added_tokens": [{ "id": 0, "content": "<e>" }, { "id": 1, "content": "<f>" }],
                "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
                "model": { "type": "BPE", "vocab": { "<e>": 0, "<f>": 1 } }
            });
            change(&mut json);
            left_out(json.to_string().as_bytes()).unwrap().join(" | ")
        };
        assert_eq!(notes(|_| ()), "");
        assert!(notes(|json| json["normalizer"] = json!({ "type": "NFC" })).contains("NFC"));
        assert!(notes(|json| json["model"]["ignore_merges"] = true.into()).contains("\"gpt-2\""));
        assert!(notes(|json| json["added_tokens"][1]["single_word"] = true.into()).contains("\"<f>\": found as whole"));
        let both = notes(|json| {
            json["added_tokens"][0]["rstrip"] = true.into();
            json["added_tokens"][1]["lstrip"] = true.into();
        });
        assert!(both.contains("\"<e>\" and 1 more tokens are swallowed"), "{both}");
    }

    #[test]
    fn a_fallback_to_bytes_has_a_form_only_where_text_is_cut_at_spaces() {
        let sequence = |parts: Value| json!({ "type": "Sequence", "pretokenizers": parts });
        assert_eq!(cuts_otherwise(&json!(null)), None);
        assert_eq!(cuts_otherwise(&sequence(json!([{ "type": "Metaspace" }]))), None);
        let digits = sequence(json!([{ "type": "Metaspace" }, { "type": "Digits", "individual_digits": true }]));
        assert_eq!(cuts_otherwise(&digits).unwrap(), "Digits");
    }
}
