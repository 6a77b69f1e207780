//! The ranks of a run at work: each computes its own rows of a batch, and the sums of one are continued by the next, so that
//! the bytes are those of one process, whatever the number of ranks.
//!
//! A gradient is a chain of sums in the order of the tokens ([`Gradients`]). Rank 0 begins it, each rank receives the sums
//! of the one before it and goes on, and what the last has is complete: it gives that to all, at the end of each pass over
//! a block, and all make the same update. Weights and state are the same on every rank between steps.

use crate::backend::{Accumulate, Backend, Param};
use crate::error::RanksError;
use crate::memory::Span;
use crate::model::Gradients;
use crate::ranks::{Ranks, agree, rows};
use std::ops::Range;
use std::sync::Arc;

/// Bytes that go from a backend to the next rank at once.
const PIECE: usize = 1 << 20;

/// Gradients of a pass at most: a block has fewer tensors, adapters included, or it is a table's.
const MOST_WAITING: usize = 256;

/// This process among its ranks.
pub(super) struct Team {
    ranks: Arc<dyn Ranks>,
    /// The first failure. After it nothing is exchanged, and nothing that is computed is of any use.
    failed: Option<RanksError>,
    piece: Vec<u8>,
    numbers: Vec<u64>,
    /// Parameters whose gradients are complete on the last rank when the pass ends.
    waiting: Vec<(Param, Span)>,
}

impl Team {
    /// Allocates all that exchanges need here.
    pub fn new(ranks: Arc<dyn Ranks>) -> Self {
        let size = ranks.size();
        let (bytes, waiting) = if size > 1 { (PIECE, MOST_WAITING) } else { (0, 0) };
        let (piece, numbers, waiting) = (vec![0; bytes], vec![0; size], Vec::with_capacity(waiting));
        Self { ranks, failed: None, piece, numbers, waiting }
    }

    /// The ranks themselves.
    pub fn ranks(&self) -> &Arc<dyn Ranks> {
        &self.ranks
    }

    /// Bytes that [`Team::new`] takes for so many ranks.
    pub fn bytes(size: usize) -> usize {
        if size > 1 { PIECE } else { 0 }
    }

    /// The rows of a batch of `batch` that are computed here.
    pub fn rows(&self, batch: usize) -> Range<usize> {
        rows(batch, self.ranks.rank(), self.ranks.size())
    }

    fn is_alone(&self) -> bool {
        self.ranks.size() == 1
    }

    fn is_last(&self) -> bool {
        self.ranks.rank() + 1 == self.ranks.size()
    }

    /// The first failure, once.
    pub fn status(&self) -> Result<(), RanksError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Exchanges something, unless that failed before.
    fn exchange(&mut self, work: impl FnOnce(&mut Self) -> Result<(), RanksError>) {
        if self.failed.is_none() {
            self.failed = work(self).err();
        }
    }

    /// The sum of one number of each rank.
    pub fn sum(&mut self, own: u64) -> u64 {
        self.numbers.fill(own);
        if !self.is_alone() {
            self.exchange(|team| agree(team.ranks.as_ref(), own, &mut team.numbers));
        }
        self.numbers.iter().sum()
    }

    /// Whether something is true on one rank at least.
    pub fn any(&mut self, own: bool) -> bool {
        self.sum(own.into()) > 0
    }

    /// The sum of the losses of all ranks' rows, in nats, added one after the other; on all ranks.
    pub fn sum_losses(&mut self, own: &[f32]) -> f64 {
        let sum = self.chain(own);
        self.share(sum)
    }

    /// The same on the last rank; others get what it was up to their own.
    pub fn chain(&mut self, own: &[f32]) -> f64 {
        // What a sum of floats begins with, as `Iterator::sum` does.
        let mut sum = -0.0f64;
        let (rank, last, alone) = (self.ranks.rank(), self.is_last(), self.is_alone());
        if rank > 0 {
            let mut bytes = sum.to_le_bytes();
            self.exchange(|team| team.ranks.recv(&mut bytes, rank - 1));
            sum = f64::from_le_bytes(bytes);
        }
        sum = own.iter().fold(sum, |sum, &loss| sum + f64::from(loss));
        if !alone && !last {
            self.exchange(|team| team.ranks.send(&sum.to_le_bytes(), rank + 1));
        }
        sum
    }

    /// A number of the last rank, on all.
    pub fn share(&mut self, number: f64) -> f64 {
        let mut bytes = number.to_le_bytes();
        if !self.is_alone() {
            self.exchange(|team| team.ranks.share(&mut bytes, team.ranks.size() - 1));
        }
        f64::from_le_bytes(bytes)
    }

    fn send(&mut self, backend: &dyn Backend, grad: Span, to: usize) {
        self.exchange(|team| {
            pieces(grad).try_for_each(|part| {
                let piece = &mut team.piece[..part.bytes];
                backend.download(part, piece);
                team.ranks.send(piece, to)
            })
        });
    }

    fn recv(&mut self, backend: &mut dyn Backend, grad: Span, from: usize) {
        self.exchange(|team| {
            pieces(grad).try_for_each(|part| {
                let piece = &mut team.piece[..part.bytes];
                team.ranks.recv(piece, from)?;
                backend.upload(piece, part);
                Ok(())
            })
        });
    }

    /// Gives all ranks the gradient that the last one has.
    fn share_grad(&mut self, backend: &mut dyn Backend, grad: Span) {
        let last = self.is_last();
        self.exchange(|team| {
            pieces(grad).try_for_each(|part| {
                let piece = &mut team.piece[..part.bytes];
                if last {
                    backend.download(part, piece);
                }
                team.ranks.share(piece, team.ranks.size() - 1)?;
                if !last {
                    backend.upload(piece, part);
                }
                Ok(())
            })
        });
    }
}

/// Consecutive parts of a span.
fn pieces(span: Span) -> impl Iterator<Item = Span> {
    (0..span.bytes).step_by(PIECE).map(move |from| span.part(from, PIECE.min(span.bytes - from)))
}

/// Gradients that all ranks form together, and what is done with those that are complete.
pub(super) struct Together<'a, F> {
    pub team: &'a mut Team,
    pub apply: F,
}

impl<F: FnMut(&mut dyn Backend, &Param, Span)> Gradients for Together<'_, F> {
    fn begin(&mut self, backend: &mut dyn Backend, grad: Span) -> Accumulate {
        match self.team.ranks.rank() {
            0 => Accumulate::No,
            rank => {
                self.team.recv(backend, grad, rank - 1);
                Accumulate::Yes
            }
        }
    }

    fn pass_on(&mut self, backend: &mut dyn Backend, grad: Span) {
        if !self.team.is_last() {
            self.team.send(backend, grad, self.team.ranks.rank() + 1);
        }
    }

    fn pass_round(&mut self, backend: &mut dyn Backend, grad: Span) {
        let (rank, size) = (self.team.ranks.rank(), self.team.ranks.size());
        if size > 1 {
            self.team.send(backend, grad, (rank + 1) % size);
            self.team.recv(backend, grad, (rank + size - 1) % size);
        }
    }

    fn apply(&mut self, backend: &mut dyn Backend, param: &Param, grad: Span) {
        match self.team.is_alone() {
            true => (self.apply)(backend, param, grad),
            false => self.team.waiting.push((*param, grad)),
        }
    }

    fn end(&mut self, backend: &mut dyn Backend) {
        // The list keeps its memory.
        let mut waiting = std::mem::take(&mut self.team.waiting);
        for (param, grad) in waiting.drain(..) {
            self.team.share_grad(backend, grad);
            // What did not arrive must not be learned.
            if self.team.failed.is_none() {
                (self.apply)(backend, &param, grad);
            }
        }
        self.team.waiting = waiting;
    }
}
