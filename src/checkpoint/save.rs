//! State to file.

use super::divided::{PIECE, Source, write_in_parts};
use super::meta::{Meta, TOKENIZER};
use super::planes::plan;
use crate::backend::Backend;
use crate::error::{BackendError, CheckpointError, RanksError, ReplaceError, WriteError};
use crate::format::{Attachment, Layout, PlaneKind, PlaneSource};
use crate::model::Model;
use crate::ranks::{Alone, Ranks};
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
    write(model, (backend, &Alone), meta, attachments, extent, path)
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
    let place = (trainer.backend(), trainer.ranks().as_ref());
    write(trainer.model(), place, meta, attachments, extent, path)
}

fn write(
    model: &Model,
    (backend, ranks): (&dyn Backend, &dyn Ranks),
    meta: &Meta,
    attachments: &[Attachment<'_>],
    extent: Extent,
    path: &Path,
) -> Result<(), CheckpointError> {
    let whole = extent == Extent::Full;
    let held: Vec<_> = model.specs.iter().zip(&model.stored).filter(|(entry, _)| meta.holds(entry.kind)).collect();
    let (tensors, planes): (Vec<_>, Vec<_>) = held.iter().map(|(entry, param)| plan(entry, param, whole)).unzip();
    let layout = Layout::new(&tensors, &meta.to_map(), attachments)
        .map_err(|e| CheckpointError::Format { path: path.into(), source: Box::new(e) })?;
    let source = Source { backend, ranks, held: &held, planes: &planes };
    let mut send = sender(&source);
    let written = replace(path, layout.file_len(), |out| {
        // The others wait for what they are asked if all of a state is saved.
        match whole && ranks.size() > 1 && write_in_parts(&layout, &source, &mut send, out)? {
            true => Ok(()),
            false => layout.write(out, &mut send),
        }
    });
    written.map_err(|error| match error {
        ReplaceError::Store(source) => CheckpointError::Store(source),
        ReplaceError::Write(source) => match of_ranks(&source) {
            Some(lost) => CheckpointError::Ranks(lost),
            None => CheckpointError::Write { path: path.into(), source },
        },
    })?;
    if whole { Ok(source.end()?) } else { Ok(()) }
}

/// Planes as the source reads them.
fn sender(source: &Source<'_>) -> impl PlaneSource {
    let mut piece = vec![0; PIECE];
    move |tensor: usize, kind: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
        let bytes = source.len(tensor, kind);
        for from in (0..bytes).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(bytes - from)];
            source.read(tensor, kind, from, piece).map_err(io::Error::other)?;
            sink(piece)?;
        }
        source.advise_cold(tensor, kind);
        Ok(())
    }
}

/// What other ranks did, if it was that.
fn of_ranks(error: &WriteError) -> Option<RanksError> {
    let WriteError::Io(error) = error else { return None };
    let error = error.get_ref()?;
    match error.downcast_ref() {
        Some(BackendError::Ranks(lost)) => Some(lost.clone()),
        _ => error.downcast_ref().cloned(),
    }
}
