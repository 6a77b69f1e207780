//! A state that lies divided among ranks, saved as one file. Rank 0 directs: where all ranks see the file that it has begun,
//! each writes its own part ([`parts`]); else rank 0 asks for each piece that it does not hold. It says when it has all.

mod follow;
mod parts;

pub use follow::contribute;
pub(super) use parts::write_in_parts;

use super::planes::ParamPlane;
use crate::backend::{Backend, Param};
use crate::error::{BackendError, RanksError};
use crate::format::PlaneKind;
use crate::model::ParamSpec;
use crate::ranks::Ranks;
use std::ops::Range;
use zerocopy::IntoBytes;

/// Bytes that go from a backend to the file at once.
pub(super) const PIECE: usize = 1 << 20;

/// What rank 0 asks of another, with up to four numbers.
type Request = [u64; 5];

/// Nothing more.
const END: u64 = 0;
/// Bytes of a plane that is held there: number of the parameter, number of the plane among all of its planes, first byte, how
/// many.
const READ: u64 = 1;
/// Whether a file in the folder of the run is seen: the two halves of its mark, bytes of its name, which follows.
const SEE: u64 = 2;
/// Its part of the planes in that file: their number; a [`Job`] for each follows.
const WRITE: u64 = 3;

/// A plane that a rank writes: number of the parameter, number of the plane, its offset in the file.
type Job = [u64; 3];

/// Where the planes of a state are read: here, or on the rank that holds them.
pub(super) struct Source<'a> {
    pub backend: &'a dyn Backend,
    pub ranks: &'a dyn Ranks,
    /// Tensors of the file, and their planes.
    pub held: &'a [(&'a ParamSpec, &'a Param)],
    pub planes: &'a [Vec<ParamPlane>],
}

impl Source<'_> {
    /// The number of a plane among those of its tensor.
    fn number(&self, tensor: usize, kind: PlaneKind) -> usize {
        let number = self.planes[tensor].iter().position(|plane| plane.kind == kind);
        number.expect("the layout was made from these planes")
    }

    /// Bytes of a plane.
    pub fn len(&self, tensor: usize, kind: PlaneKind) -> usize {
        self.planes[tensor][self.number(tensor, kind)].span.bytes
    }

    /// Whether another rank holds a plane.
    fn is_away(&self, tensor: usize, kind: PlaneKind) -> bool {
        self.planes[tensor][self.number(tensor, kind)].span.is_away()
    }

    /// The bytes of a plane are not needed again soon.
    pub fn advise_cold(&self, tensor: usize, kind: PlaneKind) {
        self.backend.advise_cold(self.planes[tensor][self.number(tensor, kind)].span);
    }

    /// Fills `out` with the bytes of a plane from `from` on.
    ///
    /// # Errors
    /// If the rank that holds it is lost, or the device here failed.
    pub fn read(&self, tensor: usize, kind: PlaneKind, from: usize, out: &mut [u8]) -> Result<(), BackendError> {
        let number = self.number(tensor, kind);
        let (span, entry) = (self.planes[tensor][number].span, self.held[tensor].0);
        if span.is_away() {
            let request: Request = [READ, entry.id.into(), number as u64, from as u64, out.len() as u64];
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
        (1..self.ranks.size()).try_for_each(|rank| self.ranks.send([END; 5].as_bytes(), rank))
    }
}

/// No two ranks write into one block of so many bytes of a file. Machines that share a file system write pages back as a whole,
/// and what another has written into the same one meanwhile may be lost; 64 KiB is the largest page that is in use.
const BLOCK: u64 = 1 << 16;

/// The whole blocks in a plane of `len` bytes at `offset` of a file, as a range of the plane's bytes.
fn whole_blocks(offset: u64, len: u64) -> Range<u64> {
    let first = offset.next_multiple_of(BLOCK) - offset;
    let end = ((offset + len) / BLOCK * BLOCK).saturating_sub(offset);
    first..end.max(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_a_plane_shares_are_not_in_its_range() {
        let found =
            [(0, BLOCK - 1), (0, BLOCK), (64, BLOCK), (64, 2 * BLOCK), (BLOCK, 3 * BLOCK + 5), (BLOCK - 64, 64)]
                .map(|(offset, len)| whole_blocks(offset, len));
        let empty = |at| at..at;
        let expected = [empty(0), 0..BLOCK, empty(BLOCK - 64), BLOCK - 64..2 * BLOCK - 64, 0..3 * BLOCK, empty(64)];
        assert_eq!(found, expected);
        for range in found {
            assert!(range.start <= range.end, "{range:?}");
        }
    }
}
