//! State to file.

use super::divided::{PIECE, Source};
use super::meta::{Meta, TOKENIZER};
use super::planes::plan;
use crate::backend::Backend;
use crate::error::{BackendError, CheckpointError, ReplaceError};
use crate::format::{Attachment, Layout, PlaneKind};
use crate::model::Model;
use crate::ranks::Alone;
use crate::store::replace;
use crate::train::Trainer;
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

/// Writes a model's state to `path`, atomically; of a model with an adapter that is trained, the adapter alone. The same
/// state gives the same bytes.
///
/// # Errors
/// Those of the file system; the previous file of that name is then as it was. [`CheckpointError::Ranks`] if other ranks hold a
/// part of what is to be saved: that is for [`save_divided`].
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
    write(model, &Source { backend, ranks: &Alone }, meta, attachments, extent, path)
}

/// [`save_with`] of a state that lies divided among ranks, by rank 0. To save [all](Extent::Full) of it the others
/// [`contribute`](super::contribute) at the same time.
///
/// # Errors
/// As [`save`], and if a rank is lost.
pub fn save_divided(
    trainer: &Trainer,
    meta: &Meta,
    attachments: &[Attachment<'_>],
    extent: Extent,
    path: &Path,
) -> Result<(), CheckpointError> {
    let source = Source { backend: trainer.backend(), ranks: trainer.ranks().as_ref() };
    write(trainer.model(), &source, meta, attachments, extent, path)?;
    if extent == Extent::Full {
        source.end()?;
    }
    Ok(())
}

fn write(
    model: &Model,
    source: &Source<'_>,
    meta: &Meta,
    attachments: &[Attachment<'_>],
    extent: Extent,
    path: &Path,
) -> Result<(), CheckpointError> {
    let whole = extent == Extent::Full;
    let held: Vec<_> = model.specs.iter().zip(&model.stored).filter(|(entry, _)| meta.holds(entry.kind)).collect();
    let (tensors, planes): (Vec<_>, Vec<_>) = held.iter().map(|(entry, param)| plan(entry, param, whole)).unzip();
    let failed = |source| CheckpointError::Write { path: path.into(), source };
    let layout = Layout::new(&tensors, &meta.to_map(), attachments)
        .map_err(|e| CheckpointError::Format { path: path.into(), source: Box::new(e) })?;
    let mut piece = vec![0; PIECE];
    let mut lost = None;
    let mut send = |tensor: usize, kind: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
        let number = planes[tensor].iter().position(|plane| plane.kind == kind);
        let number = number.expect("the layout was made from these planes");
        let span = planes[tensor][number].span;
        for from in (0..span.bytes).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(span.bytes - from)];
            if let Err(error) = source.read(held[tensor].0, number, span, from, piece) {
                lost = if let BackendError::Ranks(lost) = &error { Some(lost.clone()) } else { None };
                return Err(io::Error::other(error));
            }
            sink(piece)?;
        }
        source.backend.advise_cold(span);
        Ok(())
    };
    let written = replace(path, layout.file_len(), |out| layout.write(out, &mut send));
    written.map_err(|error| match (lost, error) {
        (Some(error), _) => CheckpointError::Ranks(error),
        (None, ReplaceError::Store(source)) => CheckpointError::Store(source),
        (None, ReplaceError::Write(source)) => failed(source),
    })
}
