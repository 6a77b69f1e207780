//! Which kind of source a path is.

use super::source::{Beside, Source};
use super::{gguf_model, hugging_face};
use crate::error::ConvertError;
use crate::format::MAGIC;
use crate::store::Map;
use std::path::Path;

/// Opens a GGUF file, a Hugging Face directory, or a single safetensors file.
///
/// # Errors
/// What is no such thing, is damaged, or is a model of another family.
pub fn open(path: &Path, beside: Beside<'_>) -> Result<Source, ConvertError> {
    let source = if path.is_dir() {
        hugging_face::open_directory(path, beside)?
    } else {
        let map = Map::open(path)?;
        if map.starts_with(&MAGIC) {
            let what = "is a .tetrad file already; GGUF, safetensors and Hugging Face directories are imported";
            return Err(ConvertError::Source { path: path.into(), what: what.into() });
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
