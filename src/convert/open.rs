//! Opening a source of any format.

use super::source::{Beside, Source};
use super::{gguf_model, hugging_face};
use crate::error::ConvertError;
use crate::format::MAGIC;
use crate::store::Map;
use std::path::Path;

/// Opens a GGUF file, a Hugging Face directory, or a single safetensors file.
///
/// # Errors
/// A file of no such format, a damaged one, or a model of another family.
pub fn open(path: &Path, beside: Beside<'_>) -> Result<Source, ConvertError> {
    let source = if path.is_dir() {
        hugging_face::open_directory(path, beside)?
    } else {
        let map = Map::open(path)?;
        if map.starts_with(&MAGIC) {
            let what = "is a .tetrad file already; GGUF, safetensors and Hugging Face directories are imported";
            return Err(ConvertError::Source { path: path.into(), what: what.into() });
        }
        if let Some(what) = other_kind(&map) {
            return Err(ConvertError::Source { path: path.into(), what: what.into() });
        }
        let named = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"));
        if !map.starts_with(b"GGUF") && map.get(8) != Some(&b'{') && !named {
            return Err(ConvertError::Source { path: path.into(), what: NO_FORMAT.into() });
        }
        if map.starts_with(b"GGUF") {
            gguf_model::open(path, map, beside)?
        } else {
            hugging_face::open_file(path, map, beside)?
        }
    };
    source.check_tokenizer()?;
    Ok(source)
}

/// What is said of any other file.
const NO_FORMAT: &str = "is of no format that is read: GGUF files, safetensors files, and Hugging Face directories with \
                         config.json and model.safetensors are; adapters are folders with adapter_config.json, or GGUF files";

/// Files that are sometimes mistaken for a model, with advice.
fn other_kind(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(hugging_face::LFS_POINTER) {
        return Some(hugging_face::LFS_ADVICE);
    }
    match bytes {
        [b'G', b'G', b'U', b'F', 0, 0, 0, 1..=3, ..] => Some(
            "is a GGUF file for big-endian machines; convert it with llama.cpp's gguf_convert_endian.py FILE little",
        ),
        // Eight bytes of any value and the header: safetensors.
        [_, _, _, _, _, _, _, _, b'{', ..] => None,
        [b'{', ..] => Some("is JSON; give the directory that it lies in, or the .safetensors file"),
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => {
            Some("is a pickle of PyTorch, which is not read; convert it with transformers' save_pretrained")
        }
        _ => None,
    }
}
