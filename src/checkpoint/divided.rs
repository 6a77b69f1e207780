//! A state that lies divided among ranks, saved by one of them: rank 0 writes the file, asks each piece of a plane that it does
//! not hold from the rank that does, and says when it has all.

use super::planes::{ParamPlane, plan};
use crate::backend::Backend;
use crate::error::{BackendError, RanksError};
use crate::memory::Span;
use crate::model::ParamSpec;
use crate::ranks::Ranks;
use crate::train::Trainer;
use zerocopy::IntoBytes;

/// Bytes that go from a backend to the file at once.
pub(super) const PIECE: usize = 1 << 20;

/// Number of the parameter, number of the plane among all of its planes, first byte, bytes. Without bytes it is the last.
type Request = [u64; 4];

const LAST: Request = [0; 4];

/// Where the planes of a state are read: here, or on the rank that holds them.
pub(super) struct Source<'a> {
    pub backend: &'a dyn Backend,
    pub ranks: &'a dyn Ranks,
}

impl Source<'_> {
    /// Fills `out` with the bytes of a plane from `from` on; `number` is the plane's among all of its parameter.
    ///
    /// # Errors
    /// If the rank that holds it is lost, or the device here failed.
    pub fn read(
        &self,
        entry: &ParamSpec,
        number: usize,
        span: Span,
        from: usize,
        out: &mut [u8],
    ) -> Result<(), BackendError> {
        if span.is_away() {
            let request: Request = [entry.id.into(), number as u64, from as u64, out.len() as u64];
            self.ranks.send(request.as_bytes(), entry.owner)?;
            return Ok(self.ranks.recv(out, entry.owner)?);
        }
        self.backend.download(span.part(from, out.len()), out);
        // A device that failed gives zeros, which no checksum would find later.
        self.backend.status()
    }

    /// Nothing more is asked.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn end(&self) -> Result<(), RanksError> {
        (1..self.ranks.size()).try_for_each(|rank| self.ranks.send(LAST.as_bytes(), rank))
    }
}

/// What every other rank does while rank 0 saves all of a state ([`RunFolder::save`](super::RunFolder::save)): gives what it
/// alone holds.
///
/// # Errors
/// If rank 0 is lost, or the device here failed.
pub fn contribute(trainer: &Trainer) -> Result<(), BackendError> {
    let (model, backend, ranks) = (trainer.model(), trainer.backend(), trainer.ranks());
    let planes: Vec<Vec<ParamPlane>> =
        model.specs.iter().zip(&model.stored).map(|(entry, param)| plan(entry, param, true).1).collect();
    let mut piece = vec![0; PIECE];
    loop {
        let mut request = LAST;
        ranks.recv(request.as_mut_bytes(), 0)?;
        let [param, plane, from, bytes] = request.map(|number| number as usize);
        if bytes == 0 {
            return Ok(());
        }
        let span = planes[param][plane].span;
        backend.download(span.part(from, bytes), &mut piece[..bytes]);
        backend.status()?;
        ranks.send(&piece[..bytes], 0)?;
        if from + bytes == span.bytes {
            backend.advise_cold(span);
        }
    }
}
