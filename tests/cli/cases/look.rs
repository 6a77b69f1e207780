//! What a command left, in a form that a case can name.

use super::Outcome;
use super::model::byte_characters;
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use tetrad::convert::gguf::{Gguf, Value as Key};
use tetrad::convert::quants::Kind;
use tetrad::convert::safetensors;

/// The names in a folder and below it, a line each.
pub fn names(folder: &Path) -> String {
    let mut found: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            found.extend(names(&entry.path()).lines().map(|below| format!("{name}/{below}")));
        }
        found.push(name);
    }
    found.sort();
    found.iter().map(|name| name.clone() + "\n").collect()
}

/// What the ids of a tokenizer of bytes stand for.
fn pieces(tokenizer: &Path) -> HashMap<u32, Vec<u8>> {
    let json: Value = serde_json::from_slice(&fs::read(tokenizer).unwrap()).unwrap();
    let bytes: HashMap<char, u8> = byte_characters().into_iter().zip(0..=255).collect();
    let own = json["model"]["vocab"].as_object().unwrap().iter().map(|(piece, id)| {
        let read: Option<Vec<u8>> = piece.chars().map(|c| bytes.get(&c).copied()).collect();
        (id.as_u64().unwrap() as u32, read.unwrap_or_else(|| piece.clone().into_bytes()))
    });
    let mut found: HashMap<_, _> = own.collect();
    for token in json["added_tokens"].as_array().unwrap() {
        found.insert(token["id"].as_u64().unwrap() as u32, token["content"].as_str().unwrap().into());
    }
    found
}

/// The samples in a folder of prepared tokens, one a line; what of a sample is learned stands in `[[ ]]`. Read from the file's
/// bytes, since a case asks what the program has written.
pub fn learned(cache: &Path, tokenizer: &Path) -> Result<String, String> {
    let (pieces, mut out) = (pieces(tokenizer), String::new());
    let shards = fs::read_dir(cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    for path in shards.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "tokens"))
    {
        let file = fs::read(path).unwrap();
        let trailer = &file[file.len() - 64..];
        let number = |at: usize| u32::from_le_bytes(trailer[at..at + 4].try_into().unwrap());
        let (marked, width, count) = (number(8) == 2, number(12) as usize, number(16) as usize);
        let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, byte| id << 8 | u32::from(*byte));
        // Of samples: the highest bit says that a token is learned, the next that it is the first one.
        let mark = |word: u32| {
            if marked { (word & ((1 << 30) - 1), word >> 31 == 1, word >> 30 & 1 == 1) } else { (word, false, false) }
        };
        let (mut text, mut was) = (Vec::new(), false);
        for word in file[..count * width].chunks(width).map(id) {
            let (id, is, first) = mark(word);
            if was && (first || !is) {
                text.extend(b"]]");
            }
            if first && !text.is_empty() {
                text.push(b'\n');
            }
            if is && (first || !was) {
                text.extend(b"[[");
            }
            text.extend(pieces.get(&id).cloned().unwrap_or_else(|| format!("<{id}>").into_bytes()));
            was = is;
        }
        if was {
            text.extend(b"]]");
        }
        out += &(String::from_utf8_lossy(&text).into_owned() + "\n");
    }
    Ok(out)
}

/// A value of a GGUF file as a configuration would have it.
fn value(found: Key<'_>) -> toml::Value {
    match found {
        Key::Bool(value) => value.into(),
        Key::Whole(value) => (value as i64).into(),
        Key::Float(value) => value.into(),
        Key::Text(text) => text.into(),
        other => other.describe().into(),
    }
}

/// Whether a GGUF file has these keys, and lacks those.
pub fn keys(path: &Path, holds: &toml::Table, lacks: &[String]) -> Outcome {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let file = Gguf::parse(&bytes).map_err(|e| e.to_string())?;
    for (key, wanted) in holds {
        let found = file.get(key).map(value);
        if found.as_ref() != Some(wanted) {
            return Err(format!("{key} is {found:?}, not {wanted}"));
        }
    }
    match lacks.iter().find(|key| file.get(key).is_some()) {
        Some(key) => Err(format!("{key} is there")),
        None => Ok(()),
    }
}

/// The tensors of a file: floats, or JSON of names and numbers.
fn floats(path: &Path) -> Result<HashMap<String, Vec<f64>>, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if path.extension().is_some_and(|end| end == "json") {
        return Ok(serde_json::from_slice(&bytes).unwrap());
    }
    let mut found = HashMap::new();
    for tensor in safetensors::parse(&bytes).map_err(|e| e.to_string())? {
        let data = &bytes[tensor.range];
        let numbers = match tensor.kind {
            Kind::F32 => data.chunks(4).map(|x| f64::from(f32::from_le_bytes(x.try_into().unwrap()))).collect(),
            Kind::F16 => data.chunks(2).map(|x| half::f16::from_le_bytes(x.try_into().unwrap()).to_f64()).collect(),
            kind => panic!("{kind:?}"),
        };
        found.insert(tensor.name, numbers);
    }
    Ok(found)
}

/// Whether the tensors that both files have are alike; one has no more than the other.
pub fn tensors(path: &Path, like: &Path, within: f64) -> Outcome {
    let (found, wanted) = (floats(path)?, floats(like)?);
    for (name, wanted) in &wanted {
        let Some(found) = found.get(name) else { return Err(format!("{name} is missing")) };
        let off = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        if found.len() != wanted.len() || off.is_nan() || off > within {
            return Err(format!("{name} is off by {off}"));
        }
    }
    Ok(())
}
