//! The ranks of a run at work: each computes its own rows of a batch, and the sums of one are continued by the next, so that
//! the bytes are those of one process, whatever the number of ranks.
//!
//! A gradient is a chain of sums in the order of the tokens ([`Gradients`]). Rank 0 begins it, each rank receives the sums
//! of the one before it and goes on, and what the last has is complete. Each parameter has an owner, which alone holds its residue
//! and its optimizer state: at the end of each pass over a block it gets the gradient from the last rank, updates, and gives what
//! products read of the new weight to all. Between steps that is the same on every rank.
//!
//! Without `train.reproducible` each rank sums up its own rows alone, and who updates a parameter adds the sums of all ranks: they
//! compute side by side, and the order of the sums depends on their number.

use crate::backend::{Accumulate, Backend, Param, UpdateStats};
use crate::config::Config;
use crate::error::RanksError;
use crate::memory::Span;
use crate::model::{AdapterKind, AdapterScale, Gradients, ParamSpec, READ_PLANES, SHORTEST_MICRO_SEQUENCE};
use crate::ranks::{Ranks, agree, rows};
use crate::store::ticks;
use std::iter::once;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::IntoBytes;

/// Bytes that go from a backend to the next rank at once.
const PIECE: usize = 1 << 20;

/// Spans of a message at most.
const MOST_PARTS: usize = 64;

/// Gradients of a pass at most: a block has fewer tensors, adapters included, or it is a table's.
const MOST_WAITING: usize = 256;

/// The rank for which others waited in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Straggler {
    /// Its number.
    pub rank: usize,
    /// How much longer than it another rank was busy with exchanges.
    pub seconds: f64,
}

/// This process among its ranks.
pub(super) struct Team {
    ranks: Arc<dyn Ranks>,
    /// Whether gradients are chains through all ranks.
    chained: bool,
    /// The first failure. After it nothing is exchanged, and nothing that is computed is of any use.
    failed: Option<RanksError>,
    piece: Vec<u8>,
    /// What a message is added to.
    sums: Vec<f32>,
    numbers: Vec<u64>,
    /// Time spent in exchanges since the last [`Team::straggler`].
    exchanging: Duration,
    /// What is updated when the pass ends.
    waiting: Vec<Waiting>,
    /// Parts of the message that is put together.
    parts: Vec<Span>,
    /// What the updates of a pass did on the rank that is asked.
    done: Vec<[u64; 3]>,
    /// What the updates of the step did.
    stats: UpdateStats,
}

impl Team {
    /// Allocates all that exchanges need here.
    pub fn new(ranks: Arc<dyn Ranks>, reproducible: bool) -> Self {
        let size = ranks.size();
        let (bytes, waiting, parts) = if size > 1 { (PIECE, MOST_WAITING, MOST_PARTS) } else { (0, 0, 0) };
        Self {
            ranks,
            chained: reproducible,
            failed: None,
            piece: vec![0; bytes],
            sums: vec![0.0; if reproducible { 0 } else { bytes / 4 }],
            numbers: vec![0; size],
            exchanging: Duration::ZERO,
            waiting: Vec::with_capacity(waiting),
            parts: Vec::with_capacity(parts),
            done: Vec::with_capacity(waiting),
            stats: UpdateStats::default(),
        }
    }

    /// The ranks themselves.
    pub fn ranks(&self) -> &Arc<dyn Ranks> {
        &self.ranks
    }

    /// Bytes that so many ranks take here: a message on its way from or to the backend, what it is added to, and as much as a
    /// message in [`mod@crate::ranks`].
    pub fn bytes(size: usize, reproducible: bool) -> usize {
        let pieces = if reproducible { 2 } else { 3 };
        if size > 1 { pieces * PIECE } else { 0 }
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

    /// The first failure, if there was one.
    ///
    /// # Errors
    /// That failure.
    pub fn status(&self) -> Result<(), RanksError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Exchanges something, unless that failed before.
    fn exchange(&mut self, work: impl FnOnce(&mut Self) -> Result<(), RanksError>) {
        if self.failed.is_none() {
            let begun = ticks();
            self.failed = work(self).err();
            self.exchanging += ticks().saturating_sub(begun);
        }
    }

    /// The number of each rank.
    pub fn all(&mut self, own: u64) -> &[u64] {
        self.numbers.fill(own);
        if !self.is_alone() {
            self.exchange(|team| agree(team.ranks.as_ref(), own, &mut team.numbers));
        }
        &self.numbers
    }

    /// The sum of one number of each rank.
    pub fn sum(&mut self, own: u64) -> u64 {
        self.all(own).iter().sum()
    }

    /// Whether something is true on one rank at least.
    pub fn any(&mut self, own: bool) -> bool {
        self.sum(own.into()) > 0
    }

    /// For whom the others have waited since this was asked last: who spent the least time in exchanges.
    pub fn straggler(&mut self) -> Option<Straggler> {
        let own = std::mem::take(&mut self.exchanging).as_micros() as u64;
        if self.is_alone() {
            return None;
        }
        self.exchange(|team| agree(team.ranks.as_ref(), own, &mut team.numbers));
        let (rank, least) = self.numbers.iter().enumerate().min_by_key(|(_, micros)| **micros)?;
        let most = self.numbers.iter().max()?;
        Some(Straggler { rank, seconds: (most - least) as f64 / 1e6 })
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

    /// What the updates of a rank did, from it to all.
    fn share_stats(&mut self, waiting: &mut [Waiting], owner: usize) {
        self.done.clear();
        self.done.extend(waiting.iter().filter(|waiting| waiting.owner == owner).map(|waiting| {
            let UpdateStats { grad_sq, rescales, skipped } = waiting.stats;
            [grad_sq.to_bits(), rescales, skipped]
        }));
        self.exchange(|team| team.ranks.share(team.done.as_mut_bytes(), owner));
        let owned = waiting.iter_mut().filter(|waiting| waiting.owner == owner);
        for (waiting, &[grad_sq, rescales, skipped]) in owned.zip(&self.done) {
            waiting.stats = UpdateStats { grad_sq: f64::from_bits(grad_sq), rescales, skipped };
        }
    }

    /// Moves spans as one stream of bytes, in messages as long as the buffer.
    fn stream(&mut self, backend: &mut dyn Backend, spans: impl Iterator<Item = Span>, way: Way) {
        self.exchange(|team| {
            let mut end = 0;
            for span in spans {
                let mut from = 0;
                while from < span.bytes {
                    let part = span.part(from, (span.bytes - from).min(PIECE - end));
                    (from, end) = (from + part.bytes, end + part.bytes);
                    team.parts.push(part);
                    if end == PIECE || team.parts.len() == MOST_PARTS {
                        team.message(backend, end, way)?;
                        end = 0;
                    }
                }
            }
            if end > 0 { team.message(backend, end, way) } else { Ok(()) }
        });
    }

    /// One message: the parts that were collected, `bytes` in all.
    fn message(&mut self, backend: &mut dyn Backend, bytes: usize, way: Way) -> Result<(), RanksError> {
        let (ranks, message) = (self.ranks.as_ref(), &mut self.piece[..bytes]);
        let own = match way {
            Way::Send(_) => true,
            Way::Recv(_) | Way::Add(_) => false,
            Way::Share(from) => from == ranks.rank(),
        };
        let mut at = 0;
        for part in self.parts.iter().filter(|_| own) {
            backend.download(*part, &mut message[at..at + part.bytes]);
            at += part.bytes;
        }
        match way {
            Way::Send(to) => ranks.send(message, to)?,
            Way::Recv(from) | Way::Add(from) => ranks.recv(message, from)?,
            Way::Share(from) => ranks.share(message, from)?,
        }
        let adds = matches!(way, Way::Add(_));
        for part in self.parts.drain(..).filter(|_| !own) {
            let received = &message[at..at + part.bytes];
            at += part.bytes;
            if !adds {
                backend.upload(received, part);
                continue;
            }
            let sums = &mut self.sums[..part.bytes / 4];
            backend.download(part, sums.as_mut_bytes());
            for (sum, more) in sums.iter_mut().zip(received.as_chunks().0) {
                *sum += f32::from_le_bytes(*more);
            }
            backend.upload(sums.as_bytes(), part);
        }
        Ok(())
    }

    /// Brings the gradients of a pass to who updates them.
    fn deliver(&mut self, backend: &mut dyn Backend, waiting: &[Waiting]) {
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        for owner in 0..size {
            let grads = || waiting.iter().filter(|waiting| waiting.owner == owner).map(|waiting| waiting.grad);
            match (self.chained, rank == owner) {
                // The last rank has them all.
                (true, true) if rank + 1 < size => self.stream(backend, grads(), Way::Recv(size - 1)),
                (true, false) if rank + 1 == size => self.stream(backend, grads(), Way::Send(owner)),
                (true, _) => {}
                (false, false) => self.stream(backend, grads(), Way::Send(owner)),
                (false, true) => {
                    for from in (0..size).filter(|from| *from != owner) {
                        self.stream(backend, grads(), Way::Add(from));
                    }
                }
            }
        }
    }

    /// Completes what each rank has filled in its own part of; `parts` has one for each rank.
    pub fn complete(&mut self, bytes: &mut [u8], parts: &[Range<usize>]) {
        if !self.is_alone() {
            self.exchange(|team| {
                let mut all = (0..).zip(parts).flat_map(|(from, part)| pieces(part).map(move |piece| (from, piece)));
                all.try_for_each(|(from, piece)| team.ranks.share(&mut bytes[piece], from))
            });
        }
    }
}

/// A range of bytes in pieces of a message each.
fn pieces(part: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = part.end;
    part.clone().step_by(PIECE).map(move |from| from..end.min(from + PIECE))
}

/// Where a stream of bytes goes.
#[derive(Clone, Copy)]
enum Way {
    Send(usize),
    Recv(usize),
    /// What is received is added to what is there, float32.
    Add(usize),
    Share(usize),
}

/// A parameter whose gradient is complete on the last rank when the pass ends, or all of whose ranks' parts are there.
struct Waiting {
    param: Param,
    grad: Span,
    /// Who updates it.
    owner: usize,
    /// What that did.
    stats: UpdateStats,
}

/// All that an update changes and others need: products read nothing else.
fn read_planes(param: &Param) -> impl Iterator<Item = Span> + use<> {
    let weight = param.weight;
    READ_PLANES.into_iter().map(move |plane| weight.span(plane)).filter(|span| !span.is_none())
}

/// Gradients that all ranks form together, and what is done with those that are complete.
pub(super) struct Together<'a, F> {
    pub team: &'a mut Team,
    /// Of all parameters.
    pub specs: &'a [ParamSpec],
    pub apply: F,
    /// Whether that changes parameters and their state.
    pub changes: bool,
}

impl<F> Together<'_, F> {
    /// What `apply` did on all ranks.
    pub fn stats(&mut self, backend: &mut dyn Backend) -> UpdateStats {
        match self.team.is_alone() {
            true => backend.update_stats(),
            false => std::mem::take(&mut self.team.stats),
        }
    }
}

impl<F: FnMut(&mut dyn Backend, &Param, Span)> Gradients for Together<'_, F> {
    fn begin(&mut self, backend: &mut dyn Backend, grad: Span) -> Accumulate {
        match self.team.ranks.rank() {
            0 => Accumulate::No,
            _ if !self.team.chained => Accumulate::No,
            rank => {
                self.team.stream(backend, once(grad), Way::Recv(rank - 1));
                Accumulate::Yes
            }
        }
    }

    fn pass_on(&mut self, backend: &mut dyn Backend, grad: Span) {
        if self.team.chained && !self.team.is_last() {
            self.team.stream(backend, once(grad), Way::Send(self.team.ranks.rank() + 1));
        }
    }

    fn pass_round(&mut self, backend: &mut dyn Backend, grad: Span) {
        let (rank, size) = (self.team.ranks.rank(), self.team.ranks.size());
        if self.team.chained && size > 1 {
            self.team.stream(backend, once(grad), Way::Send((rank + 1) % size));
            self.team.stream(backend, once(grad), Way::Recv((rank + size - 1) % size));
        }
    }

    fn apply(&mut self, backend: &mut dyn Backend, param: &Param, grad: Span) {
        match self.team.is_alone() {
            true => (self.apply)(backend, param, grad),
            false => {
                let (param, owner, stats) = (*param, self.specs[param.id as usize].owner, UpdateStats::default());
                self.team.waiting.push(Waiting { param, grad, owner, stats });
            }
        }
    }

    /// Each parameter is updated by its owner, which gives its weight to all.
    fn end(&mut self, backend: &mut dyn Backend) {
        let (rank, size) = (self.team.ranks.rank(), self.team.ranks.size());
        if self.team.waiting.is_empty() {
            return;
        }
        // The list keeps its memory.
        let mut waiting = std::mem::take(&mut self.team.waiting);
        self.team.deliver(backend, &waiting);
        // What did not arrive must not be learned.
        for own in waiting.iter_mut().filter(|waiting| waiting.owner == rank && self.team.failed.is_none()) {
            (self.apply)(backend, &own.param, own.grad);
            own.stats = backend.update_stats();
        }
        for owner in 0..size {
            if self.changes {
                let owned = waiting.iter().filter(|waiting| waiting.owner == owner);
                self.team.stream(backend, owned.flat_map(|waiting| read_planes(&waiting.param)), Way::Share(owner));
            }
            self.team.share_stats(&mut waiting, owner);
        }
        for Waiting { stats, .. } in waiting.drain(..) {
            self.team.stats.add(stats);
        }
        self.team.waiting = waiting;
    }
}

/// Whether batches can be divided among the ranks of a configuration.
///
/// # Errors
/// Fewer rows than ranks, rows that are too short, or a prefix with learned scales.
pub fn check_ranks(config: &Config) -> Result<(), RanksError> {
    let (ranks, batch, sequence) = (config.run.ranks, config.train.batch, config.train.sequence);
    if ranks > batch {
        return Err(RanksError::FewRows { ranks, batch });
    }
    let least = SHORTEST_MICRO_SEQUENCE;
    if ranks > 1 && sequence < least {
        return Err(RanksError::ShortRows { ranks, sequence, least });
    }
    let learned = config.adapter.kind == AdapterKind::Prefix && config.adapter.scale == AdapterScale::Learned;
    if ranks > 1 && learned {
        return Err(RanksError::PrefixScales { ranks });
    }
    Ok(())
}
