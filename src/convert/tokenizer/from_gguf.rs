//! `tokenizer.json` and `tokenizer_config.json` from a GGUF file's arrays.

use super::pre::{PreTokenizer, by_name, names};
use super::{SPACE, token_type};
use crate::convert::gguf::{Gguf, Value as Key};
use crate::data::tokenize::merges::of_scores;
use crate::error::{ConvertError, GgufError};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::Path;

/// A `tokenizer.json` and its `tokenizer_config.json`.
type Files = (Vec<u8>, Option<Vec<u8>>);

/// The arrays of a file.
struct Arrays<'a> {
    tokens: Vec<&'a str>,
    types: Vec<i64>,
    special: Map<String, Value>,
}

impl Arrays<'_> {
    /// Whether a text begins with a special token if the file does not say: llama.cpp's default.
    fn begin(&mut self, begins: bool) {
        if !self.special.contains_key("add_bos_token") {
            self.special.insert("add_bos_token".into(), begins.into());
        }
    }
}

/// The `tokenizer_config.json` of a file whose tokenizer is given beside it: its special tokens and its chat template hold
/// whatever cuts the text. Nothing if the file has no tokenizer.
///
/// # Errors
/// Keys of another type than they should have.
pub fn config_of_gguf(gguf: &Gguf<'_>) -> Result<Option<Vec<u8>>, GgufError> {
    let kind = gguf.maybe("tokenizer.ggml.model", "a text", Key::text)?;
    let Some(kind) = kind.filter(|kind| *kind != "no_vocab" && *kind != "none") else { return Ok(None) };
    let mut arrays = arrays(gguf)?;
    let pre = gguf.maybe("tokenizer.ggml.pre", "a text", Key::text)?;
    match (kind, pre.and_then(by_name)) {
        ("llama", _) => arrays.begin(true),
        (_, Some(pre)) => arrays.begin(pre.ignore_merges),
        // What llama.cpp does by default is not known here; the given tokenizer says it itself.
        (_, None) => {}
    }
    Ok(Some(serde_json::to_vec_pretty(&arrays.special).expect("a JSON value is JSON")))
}

/// The tokenizer of a file; nothing if it has none.
///
/// # Errors
/// An unknown kind of tokenizer, arrays that contradict each other.
pub fn from_gguf(path: &Path, gguf: &Gguf<'_>) -> Result<Option<Files>, ConvertError> {
    let failed = |source| ConvertError::Gguf { path: path.into(), source };
    let refuse = |what: String| ConvertError::Source { path: path.into(), what };
    let kind = gguf.maybe("tokenizer.ggml.model", "a text", Key::text).map_err(failed)?;
    let Some(kind) = kind.filter(|kind| *kind != "no_vocab" && *kind != "none") else { return Ok(None) };
    let mut arrays = arrays(gguf).map_err(failed)?;
    let mut seen = HashSet::new();
    if let Some(token) = arrays.tokens.iter().find(|token| !seen.insert(**token)) {
        let token: String = token.chars().take(60).collect();
        return Err(refuse(format!("its vocabulary has the token {token:?} twice")));
    }
    let json = match kind {
        "gpt2" => {
            let name = gguf.maybe("tokenizer.ggml.pre", "a text", Key::text).map_err(failed)?.unwrap_or("(none)");
            let pre = by_name(name).ok_or_else(|| {
                refuse(format!(
                    "its text is cut by {name:?} (tokenizer.ggml.pre), and {} are known; give the model's \
                     tokenizer.json with --tokenizer FILE",
                    names()
                ))
            })?;
            arrays.begin(pre.ignore_merges);
            byte_level(&arrays, gguf, pre).map_err(failed)?
        }
        "llama" => {
            arrays.begin(true);
            sentence_piece(&arrays, gguf).map_err(failed)?
        }
        other => {
            let what = format!(
                "its tokenizer is {other:?}, and \"gpt2\" and \"llama\" are known; give the model's tokenizer.json \
                 with --tokenizer FILE"
            );
            return Err(refuse(what));
        }
    };
    Ok(Some((json, Some(serde_json::to_vec_pretty(&arrays.special).expect("a JSON value is JSON")))))
}

fn arrays<'a>(gguf: &Gguf<'a>) -> Result<Arrays<'a>, GgufError> {
    let texts = |key: &str| {
        let read = |value: Key<'a>| if let Key::Array(array) = value { array.texts() } else { None };
        gguf.need(key, "an array of texts", read)
    };
    let tokens = texts("tokenizer.ggml.tokens")?;
    let types = numbers(gguf, "tokenizer.ggml.token_type", tokens.len())?;
    let types = types.map_or(vec![i64::from(token_type::NORMAL); tokens.len()], |types| {
        types.into_iter().map(|kind| kind as i64).collect()
    });
    let mut special = Map::new();
    for (key, name) in [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")]
    {
        let id = gguf.maybe(&format!("tokenizer.ggml.{key}_token_id"), "a whole number", Key::count)?;
        if let Some(token) = id.and_then(|id| tokens.get(usize::try_from(id).ok()?)) {
            special.insert(name.into(), (*token).into());
        }
    }
    let switch = |value: Key<'a>| if let Key::Bool(switch) = value { Some(switch) } else { None };
    for name in ["add_bos_token", "add_eos_token"] {
        if let Some(switch) = gguf.maybe(&format!("tokenizer.ggml.{name}"), "true or false", switch)? {
            special.insert(name.into(), switch.into());
        }
    }
    if let Some(template) = gguf.maybe("tokenizer.chat_template", "a text", Key::text)? {
        special.insert("chat_template".into(), template.into());
    }
    special.insert("clean_up_tokenization_spaces".into(), false.into());
    special.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    Ok(Arrays { tokens, types, special })
}

/// A `generation_config.json`, for a file with further tokens that end a text, such as the end of a turn.
///
/// # Errors
/// Keys that are not numbers.
pub fn ends_of_gguf(gguf: &Gguf<'_>) -> Result<Option<Vec<u8>>, GgufError> {
    let mut ids: Vec<u64> = Vec::new();
    for name in ["eos", "eot", "eom"] {
        let id = gguf.maybe(&format!("tokenizer.ggml.{name}_token_id"), "a whole number", Key::count)?;
        ids.extend(id.filter(|id| !ids.contains(id)));
    }
    let json = || serde_json::to_vec_pretty(&json!({ "eos_token_id": ids })).expect("a JSON value is JSON");
    Ok((ids.len() > 1).then(json))
}

/// An array of as many numbers as there are tokens.
fn numbers(gguf: &Gguf<'_>, key: &str, count: usize) -> Result<Option<Vec<f64>>, GgufError> {
    let read = |value: Key<'_>| if let Key::Array(array) = value { array.numbers() } else { None };
    match gguf.maybe(key, "an array of numbers", read)? {
        Some(found) if found.len() != count => Err(GgufError::KeyValue {
            key: key.into(),
            found: format!("an array of {}", found.len()),
            needed: format!("one number for each of {count} tokens"),
        }),
        found => Ok(found),
    }
}

fn byte_level<'a>(arrays: &Arrays<'_>, gguf: &Gguf<'a>, pre: &PreTokenizer) -> Result<Vec<u8>, GgufError> {
    let key = "tokenizer.ggml.merges";
    let read = |value: Key<'a>| if let Key::Array(array) = value { array.texts() } else { None };
    let merges = gguf.need(key, "an array of texts", read)?;
    let cut = |merge: &str| {
        let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
        Some((merge[..at].to_owned(), merge[at + 1..].to_owned()))
    };
    let pairs: Option<Vec<_>> = merges.iter().map(|merge| cut(merge)).collect();
    let pairs = pairs.ok_or_else(|| GgufError::KeyValue {
        key: key.into(),
        found: "an array with a text of one part".into(),
        needed: "two tokens with a space between".into(),
    })?;
    let frame = json!({
        "normalizer": if pre.nfc { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": pre.json(),
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "unk_token": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": pre.ignore_merges },
    });
    Ok(write(arrays, &frame, pairs.iter().map(|(l, r)| (l.as_str(), r.as_str()))))
}

fn sentence_piece(arrays: &Arrays<'_>, gguf: &Gguf<'_>) -> Result<Vec<u8>, GgufError> {
    let key = "tokenizer.ggml.scores";
    let scores = numbers(gguf, key, arrays.tokens.len())?.ok_or_else(|| GgufError::KeyMissing { key: key.into() })?;
    // Only tokens that merges can produce; control tokens are matched in the text directly.
    let normal = |kind: &i64| [token_type::NORMAL, token_type::USER_DEFINED].contains(&(*kind as i32));
    let pieces: Vec<(&str, f64)> = arrays
        .tokens
        .iter()
        .zip(&scores)
        .zip(&arrays.types)
        .filter(|(_, kind)| normal(kind))
        .map(|((token, score), _)| (*token, *score))
        .collect();
    let switch = |value: Key<'_>| if let Key::Bool(switch) = value { Some(switch) } else { None };
    let prefix = gguf.maybe("tokenizer.ggml.add_space_prefix", "true or false", switch)?.unwrap_or(true);
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let unknown = arrays.types.iter().position(|kind| *kind == i64::from(token_type::UNKNOWN));
    let frame = json!({
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "unk_token": unknown.map(|id| arrays.tokens[id]), "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false,
        },
    });
    Ok(write(arrays, &frame, of_scores(&pieces).into_iter()))
}

/// Text of a `tokenizer.json`. Vocabulary and merges are written one by one: a tree of JSON values would take ten times
/// the memory.
fn write<'m>(arrays: &Arrays<'_>, frame: &Value, merges: impl Iterator<Item = (&'m str, &'m str)>) -> Vec<u8> {
    let mut out = Vec::new();
    let added: Vec<Value> = arrays
        .types
        .iter()
        .enumerate()
        .filter(|(_, kind)| {
            [token_type::CONTROL, token_type::USER_DEFINED, token_type::UNKNOWN].contains(&(**kind as i32))
        })
        .map(|(id, kind)| {
            json!({
                "id": id, "content": arrays.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind != i64::from(token_type::USER_DEFINED),
            })
        })
        .collect();
    let text = |value: &Value| serde_json::to_string(value).expect("a JSON value is JSON");
    let start = format!(
        "{{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":{},\"normalizer\":{},\
         \"pre_tokenizer\":{},\"post_processor\":{},\"decoder\":{},\"model\":{{\"type\":\"BPE\",\"dropout\":null,\
         \"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,",
        text(&Value::Array(added)),
        text(&frame["normalizer"]),
        text(&frame["pre_tokenizer"]),
        text(&post_processor(arrays)),
        text(&frame["decoder"]),
    );
    out.extend_from_slice(start.as_bytes());
    for key in ["unk_token", "fuse_unk", "byte_fallback", "ignore_merges"] {
        out.extend_from_slice(format!("\"{key}\":{},", text(&frame["model"][key])).as_bytes());
    }
    let quoted = |out: &mut Vec<u8>, text: &str| {
        serde_json::to_writer(out, text).expect("a vector takes every write");
    };
    out.extend_from_slice(b"\"vocab\":{");
    for (id, token) in arrays.tokens.iter().enumerate() {
        out.extend_from_slice(if id == 0 { b"" } else { b"," });
        quoted(&mut out, token);
        out.extend_from_slice(format!(":{id}").as_bytes());
    }
    out.extend_from_slice(b"},\"merges\":[");
    for (i, (left, right)) in merges.enumerate() {
        out.extend_from_slice(if i == 0 { b"[" } else { b",[" });
        quoted(&mut out, left);
        out.push(b',');
        quoted(&mut out, right);
        out.push(b']');
    }
    out.extend_from_slice(b"]}}");
    out
}

/// The post-processor that puts the special token before a text.
fn post_processor(arrays: &Arrays<'_>) -> Value {
    let bos = arrays.special.get("bos_token").and_then(Value::as_str);
    let (Some(bos), Some(Value::Bool(true))) = (bos, arrays.special.get("add_bos_token")) else { return Value::Null };
    let Some(id) = arrays.tokens.iter().position(|token| *token == bos) else { return Value::Null };
    let mut tokens = Map::new();
    tokens.insert(bos.into(), json!({ "id": bos, "ids": [id], "tokens": [bos] }));
    let begin = json!({ "SpecialToken": { "id": bos, "type_id": 0 } });
    let (a, b) =
        (json!({ "Sequence": { "id": "A", "type_id": 0 } }), json!({ "Sequence": { "id": "B", "type_id": 1 } }));
    json!({ "type": "TemplateProcessing", "single": [begin, a], "pair": [begin, a, b], "special_tokens": tokens })
}
