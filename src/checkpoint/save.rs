//! State to file.

use super::meta::{Meta, TOKENIZER};
use super::planes::plan;
use crate::backend::Backend;
use crate::error::{CheckpointError, ReplaceError};
use crate::format::{Attachment, Layout, PlaneKind};
use crate::model::Model;
use crate::store::replace;
use std::io;
use std::path::Path;

/// How much of a state is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that resuming needs.
    Full,
    /// The weights as products read them: what is evaluated, sampled and shipped.
    Weights,
}

/// Bytes that go from a backend to the file at once.
const PIECE: usize = 1 << 20;

/// Writes a model's state to `path`, atomically; of a model with an adapter that is trained, the adapter alone. The same
/// state gives the same bytes.
///
/// # Errors
/// Those of the file system; the previous file of that name is then as it was.
pub fn save(
    model: &Model,
    backend: &dyn Backend,
    meta: &Meta,
    tokenizer: Option<&[u8]>,
    extent: Extent,
    path: &Path,
) -> Result<(), CheckpointError> {
    let tokenizer = tokenizer.map(|bytes| Attachment { name: TOKENIZER, bytes });
    save_with(model, backend, meta, tokenizer.as_slice(), extent, path)
}

/// [`save`] with any attachments, the tokenizer among them if there is one.
///
/// # Errors
/// As [`save`].
pub fn save_with(
    model: &Model,
    backend: &dyn Backend,
    meta: &Meta,
    attachments: &[Attachment<'_>],
    extent: Extent,
    path: &Path,
) -> Result<(), CheckpointError> {
    let whole = extent == Extent::Full;
    let held = model.specs.iter().zip(&model.stored).filter(|(entry, _)| meta.holds(entry.kind));
    let (tensors, planes): (Vec<_>, Vec<_>) = held.map(|(entry, param)| plan(entry, param, whole)).unzip();
    let failed = |source| CheckpointError::Write { path: path.into(), source };
    let layout = Layout::new(&tensors, &meta.to_map(), attachments)
        .map_err(|e| CheckpointError::Format { path: path.into(), source: Box::new(e) })?;
    let mut piece = vec![0; PIECE];
    let mut source = |tensor: usize, kind: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
        let plane = planes[tensor].iter().find(|plane| plane.kind == kind);
        let span = plane.expect("the layout was made from these planes").span;
        for from in (0..span.bytes).step_by(PIECE) {
            let count = PIECE.min(span.bytes - from);
            backend.download(span.part(from, count), &mut piece[..count]);
            // A device that failed gives zeros, which no checksum would find later.
            backend.status().map_err(io::Error::other)?;
            sink(&piece[..count])?;
        }
        backend.advise_cold(span);
        Ok(())
    };
    replace(path, layout.file_len(), |out| layout.write(out, &mut source)).map_err(|error| match error {
        ReplaceError::Store(source) => CheckpointError::Store(source),
        ReplaceError::Write(source) => failed(source),
    })
}
