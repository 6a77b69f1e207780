//! Export: to GGUF with the bits that were trained, to Hugging Face with their values.

mod folder;
mod gguf;
mod hugging_face;
mod rows;

pub(super) use folder::Folder;
pub(super) use gguf::architecture;
pub use gguf::{GgufTypes, TableType, export_gguf, gguf_left_out};
pub use hugging_face::export_hugging_face;
pub use rows::FloatType;

use crate::error::{ConvertError, ReplaceError};
use crate::store::{Sink, replace};
use std::io;
use std::path::Path;

/// [`replace`], with the errors of conversion.
pub(super) fn put(path: &Path, len: u64, write: impl FnOnce(&mut Sink) -> io::Result<()>) -> Result<(), ConvertError> {
    replace(path, len, write).map_err(|error| match error {
        ReplaceError::Store(source) => ConvertError::Store(source),
        ReplaceError::Write(error) => ConvertError::Write { path: path.into(), source: error.into() },
    })
}
