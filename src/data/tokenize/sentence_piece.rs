//! SentencePiece's `tokenizer.model` as a `tokenizer.json`: unigram and BPE.
//!
//! Source: `sentencepiece_model.proto` of <https://github.com/google/sentencepiece>, and for what the settings do,
//! `normalizer.cc`, `unigram_model.cc` and `bpe_model.cc` there. Encodings are checked against recorded ones.
//!
//! One thing is as transformers' LLaMA and llama.cpp have it, and not as SentencePiece: a space is put before the text
//! behind a symbol of a user, as before every text.

use super::merges::of_scores;
use super::protobuf::{Field, fields};
use crate::error::DataError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::Path;

/// A space as SentencePiece writes it.
const SPACE: &str = "\u{2581}";

/// What a piece is: the numbers of `ModelProto.SentencePiece.Type`.
mod kind {
    pub const NORMAL: u64 = 1;
    pub const UNKNOWN: u64 = 2;
    pub const CONTROL: u64 = 3;
    pub const USER_DEFINED: u64 = 4;
    // 5: unused.
    pub const BYTE: u64 = 6;
}

struct Piece {
    text: String,
    score: f64,
    kind: u64,
}

/// A model, with SentencePiece's defaults for what its file leaves out.
struct Model {
    pieces: Vec<Piece>,
    bpe: bool,
    byte_fallback: bool,
    /// Ids of the ends of a text; -1 if there is none.
    bos: i64,
    eos: i64,
    /// Compiled table of replacements of characters.
    replacements: Vec<u8>,
    /// Whether a space is put before every text.
    prefix: bool,
    /// Whether spaces at the ends are dropped, and several made one.
    strip: bool,
}

/// A token beside those of the model, as `added_tokens_decoder` and `added_tokens.json` have them.
#[derive(Clone, Debug, PartialEq)]
struct AddedToken {
    id: u64,
    content: String,
    special: bool,
}

/// A `tokenizer.json`, and what a `tokenizer_config.json` would say.
pub(crate) type Converted = (Vec<u8>, Map<String, Value>);

/// Whether bytes begin as a model does: with a piece; a tokenizer.json begins with a brace.
fn is_model(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x0a]) && !bytes.trim_ascii_start().starts_with(b"{")
}

/// [`read`] without files beside it.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_alone(path: &Path, bytes: &[u8]) -> Result<Option<Converted>, DataError> {
    let refuse = |reason: String| DataError::SentencePiece { path: path.into(), reason };
    is_model(bytes).then(|| to_json(bytes, &[], true).map_err(refuse)).transpose()
}

/// Reads a `tokenizer.model` with the tokens that the files beside it add (`added_tokens.json`, `tokenizer_config.json`):
/// a `tokenizer.json`, and what `tokenizer_config.json` says where there is none. Nothing if `bytes`, the content of
/// `path`, are no model.
///
/// # Errors
/// A model that is damaged or asks for what `tokenizer.json` cannot express, files beside it that contradict it.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Option<Converted>, DataError> {
    if !is_model(bytes) {
        return Ok(None);
    }
    let refuse = |reason: String| DataError::SentencePiece { path: path.into(), reason };
    let object = |name: &str| match std::fs::read(path.with_file_name(name)) {
        Ok(json) => serde_json::from_slice::<Map<String, Value>>(&json)
            .map_err(|error| refuse(format!("stands beside a {name} that is no object in JSON: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(source) => Err(DataError::Read { path: path.with_file_name(name), source }),
    };
    let (told, plain) = (object("tokenizer_config.json")?, object("added_tokens.json")?);
    let mut added = Vec::new();
    for (content, id) in &plain {
        let id = id.as_u64().ok_or_else(|| refuse(format!("stands beside an added_tokens.json with the id {id}")))?;
        added.push(AddedToken { id, content: content.clone(), special: false });
    }
    for (id, token) in told.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let wrong = || refuse(format!("stands beside a tokenizer_config.json with the added token {id}: {token}"));
        let (id, content) = (id.parse().map_err(|_| wrong())?, token["content"].as_str().ok_or_else(wrong)?);
        added.retain(|known| known.id != id);
        added.push(AddedToken { id, content: content.into(), special: token["special"] == Value::Bool(true) });
    }
    let add_bos = told.get("add_bos_token").and_then(Value::as_bool).unwrap_or(true);
    to_json(bytes, &added, add_bos).map(Some).map_err(refuse)
}

/// A `tokenizer.json` that encodes as the model in `bytes` does, with `added` tokens, and what `tokenizer_config.json`
/// says of such a model where there is none: its ends, and that a text begins with the first (as LLaMA's tokenizer
/// class has it) unless `add_bos` is false.
///
/// # Errors
/// A file that is no model, or asks for what `tokenizer.json` cannot express, by name.
fn to_json(bytes: &[u8], added: &[AddedToken], add_bos: bool) -> Result<Converted, String> {
    let model = Model::read(bytes)?;
    model.check()?;
    let name = |id: i64| usize::try_from(id).ok().and_then(|id| model.pieces.get(id)).map(|piece| piece.text.as_str());
    let mut config = Map::new();
    let unknown = model.pieces.iter().position(|piece| piece.kind == kind::UNKNOWN);
    let ends = [
        ("bos_token", name(model.bos)),
        ("eos_token", name(model.eos)),
        ("unk_token", unknown.and_then(|id| name(id as i64))),
    ];
    config.extend(ends.into_iter().filter_map(|(key, name)| Some((key.to_owned(), name?.into()))));
    config.insert("add_bos_token".into(), add_bos.into());
    config.insert("add_eos_token".into(), false.into());
    let begin = name(model.bos).filter(|_| add_bos).map(|name| (name, model.bos));
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": model.added(added)?,
        "normalizer": model.normalizer(),
        "pre_tokenizer": model.pre_tokenizer(),
        "post_processor": post_processor(begin),
        "decoder": model.decoder(),
        "model": if model.bpe { model.merges(unknown) } else { model.unigram(unknown) },
    });
    Ok((serde_json::to_vec(&tokenizer).map_err(|error| error.to_string())?, config))
}

impl Model {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Model {
            pieces: Vec::new(),
            bpe: false,
            byte_fallback: false,
            bos: 1,
            eos: 2,
            replacements: Vec::new(),
            prefix: true,
            strip: true,
        };
        fields(bytes, |number, field| match number {
            1 => {
                model.pieces.push(piece(message(field)?)?);
                Ok(())
            }
            2 => model.trainer(message(field)?),
            3 => model.normalization(message(field)?),
            5 => fields(message(field)?, |number, field| match (number, field.bytes()) {
                (2, Some(table)) if !table.is_empty() => Err("rewrites decoded text (denormalizer_spec)".into()),
                _ => Ok(()),
            }),
            _ => Ok(()),
        })?;
        Ok(model)
    }

    fn trainer(&mut self, spec: &[u8]) -> Result<(), String> {
        fields(spec, |number, field| {
            match number {
                3 => match field.number() {
                    Some(1) => self.bpe = false,
                    Some(2) => self.bpe = true,
                    other => return Err(format!("is of the type {other:?}; unigram (1) and BPE (2) are read")),
                },
                24 if field.number() == Some(1) => {
                    return Err("puts spaces behind words (treat_whitespace_as_suffix)".into());
                }
                35 => self.byte_fallback = field.number() == Some(1),
                // A negative number is written as that of 64 bits.
                41 => self.bos = whole(field)? as i64,
                42 => self.eos = whole(field)? as i64,
                _ => {}
            }
            Ok(())
        })
    }

    fn normalization(&mut self, spec: &[u8]) -> Result<(), String> {
        fields(spec, |number, field| {
            match number {
                2 => self.replacements = message(field)?.to_vec(),
                3 => self.prefix = whole(field)? != 0,
                4 => self.strip = whole(field)? != 0,
                5 if whole(field)? == 0 => return Err("keeps spaces as they are (escape_whitespaces is false)".into()),
                _ => {}
            }
            Ok(())
        })
    }

    /// What every model has.
    fn check(&self) -> Result<(), String> {
        let mut seen = HashSet::new();
        if let Some(piece) = self.pieces.iter().find(|piece| !seen.insert(piece.text.as_str())) {
            return Err(format!("has the piece {:?} twice", piece.text));
        }
        let count = |kind| self.pieces.iter().filter(|piece| piece.kind == kind).count();
        if count(kind::NORMAL) == 0 {
            return Err(format!("has {} pieces, none of them of text; it is cut off or no model", self.pieces.len()));
        }
        match (self.byte_fallback, count(kind::BYTE)) {
            (true, 256) | (false, 0) => Ok(()),
            (true, found) => Err(format!("has {found} pieces of bytes; 256 are needed (byte_fallback)")),
            (false, found) => Err(format!("has {found} pieces of bytes and does not use them (byte_fallback)")),
        }
    }

    /// Pieces that are found in a text as they are, and tokens from elsewhere.
    fn added(&self, more: &[AddedToken]) -> Result<Vec<Value>, String> {
        let entry = |id: u64, content: &str, special: bool| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            })
        };
        let mut found = Vec::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            let special = [kind::CONTROL, kind::UNKNOWN].contains(&piece.kind);
            // One with a space is a piece of the text in which spaces are written so.
            if special || piece.kind == kind::USER_DEFINED && !piece.text.contains(SPACE) {
                found.push(entry(id as u64, &piece.text, special));
            }
        }
        let mut more: Vec<&AddedToken> = more.iter().collect();
        more.sort_by_key(|token| token.id);
        let mut next = self.pieces.len() as u64;
        for token in more {
            match usize::try_from(token.id).ok().and_then(|id| self.pieces.get(id)) {
                Some(piece) if piece.text == token.content => {}
                Some(piece) => {
                    let (id, content) = (token.id, &token.content);
                    return Err(format!("has the piece {:?} for the id {id}, which is to be {content:?}", piece.text));
                }
                None if token.id == next => {
                    found.push(entry(token.id, &token.content, token.special));
                    next += 1;
                }
                None => {
                    let (id, content) = (token.id, &token.content);
                    return Err(format!(
                        "has ids below {next}, and the token {content:?} beside it has {id}: those between are unknown"
                    ));
                }
            }
        }
        Ok(found)
    }

    fn normalizer(&self) -> Value {
        let mut steps = Vec::new();
        if !self.replacements.is_empty() {
            steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": STANDARD.encode(&self.replacements) }));
        }
        if self.strip {
            steps.push(json!({ "type": "Replace", "pattern": { "Regex": "^ +| +$" }, "content": "" }));
            steps.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }));
        }
        if self.prefix {
            steps.push(json!({ "type": "Prepend", "prepend": SPACE }));
        }
        steps.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE }));
        json!({ "type": "Sequence", "normalizers": steps })
    }

    /// Unigram: words apart where no piece reaches into the next one, so that a long text is encoded in parts; and a text
    /// that spells a piece of a byte out is cut within, since it is not that byte.
    fn pre_tokenizer(&self) -> Value {
        if self.bpe {
            return Value::Null;
        }
        let mut steps = Vec::new();
        if self.byte_fallback {
            let pattern = json!({ "Regex": "<(?=0x[0-9A-F]{2}>)" });
            steps.push(json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false }));
        }
        let reaches = |piece: &Piece| piece.text.char_indices().any(|(at, c)| at > 0 && SPACE.starts_with(c));
        if !self.pieces.iter().any(reaches) && self.pieces.iter().any(|piece| piece.text == SPACE) {
            steps.push(json!({ "type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": true }));
        }
        match steps.is_empty() {
            true => Value::Null,
            false => json!({ "type": "Sequence", "pretokenizers": steps }),
        }
    }

    fn decoder(&self) -> Value {
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.prefix {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        json!({ "type": "Sequence", "decoders": steps })
    }

    fn merges(&self, unknown: Option<usize>) -> Value {
        let joined = |piece: &&Piece| [kind::NORMAL, kind::USER_DEFINED].contains(&piece.kind);
        let pieces: Vec<(&str, f64)> =
            self.pieces.iter().filter(joined).map(|piece| (piece.text.as_str(), piece.score)).collect();
        let vocab: Map<String, Value> =
            self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.clone(), id.into())).collect();
        let merges: Vec<Value> = of_scores(&pieces).into_iter().map(|(left, right)| json!([left, right])).collect();
        json!({
            "type": "BPE", "dropout": null, "unk_token": unknown.map(|id| self.pieces[id].text.as_str()),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": self.byte_fallback, "ignore_merges": false, "vocab": vocab, "merges": merges,
        })
    }

    fn unigram(&self, unknown: Option<usize>) -> Value {
        let of_text = || self.pieces.iter().filter(|piece| piece.kind == kind::NORMAL).map(|piece| piece.score);
        let (best, worst) = (of_text().fold(f64::NEG_INFINITY, f64::max), of_text().fold(f64::INFINITY, f64::min));
        let score = |piece: &Piece| match piece.kind {
            kind::NORMAL => piece.score,
            // Better than any other way to write it.
            kind::USER_DEFINED => piece.text.chars().count() as f64 * best - 0.1,
            // Not found in texts, not even where it is spelled out: its characters are better.
            _ => worst - 1000.0,
        };
        let vocab: Vec<Value> = self.pieces.iter().map(|piece| json!([piece.text, score(piece)])).collect();
        json!({ "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": self.byte_fallback })
    }
}

fn message(field: Field<'_>) -> Result<&[u8], String> {
    field.bytes().ok_or_else(|| "has a field of another type than SentencePiece's".into())
}

fn whole(field: Field<'_>) -> Result<u64, String> {
    field.number().ok_or_else(|| "has a field of another type than SentencePiece's".into())
}

fn piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: kind::NORMAL };
    fields(bytes, |number, field| {
        match number {
            1 => {
                let text = std::str::from_utf8(message(field)?);
                piece.text = text.map_err(|_| "has a piece that is not UTF-8".to_owned())?.into();
            }
            2 => piece.score = field.float().ok_or("has a score that is no float")?.into(),
            3 => piece.kind = whole(field)?,
            _ => {}
        }
        Ok(())
    })?;
    match (piece.text.is_empty(), piece.score.is_finite(), (kind::NORMAL..=kind::BYTE).contains(&piece.kind)) {
        (false, true, true) => Ok(piece),
        (true, ..) => Err("has a piece without text".into()),
        (_, false, _) => Err(format!("has the piece {:?} with a score that is not finite", piece.text)),
        _ => Err(format!("has the piece {:?} of type {}; 1 to 6 exist", piece.text, piece.kind)),
    }
}

/// Puts the beginning before a text.
fn post_processor(begin: Option<(&str, i64)>) -> Value {
    let Some((name, id)) = begin else { return Value::Null };
    let mut tokens = Map::new();
    tokens.insert(name.into(), json!({ "id": name, "ids": [id], "tokens": [name] }));
    let begin = json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let sequence = |name: &str, id: u32| json!({ "Sequence": { "id": name, "type_id": id } });
    let (first, second) = (sequence("A", 0), sequence("B", 1));
    json!({
        "type": "TemplateProcessing", "single": [begin, first], "pair": [begin, first, second], "special_tokens": tokens,
    })
}
