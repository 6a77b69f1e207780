//! The ranks of a run at work: each computes its own rows of a batch, and the sums of one are continued by the next, so that
//! the bytes are those of one process, whatever the number of ranks.
//!
//! A gradient is a chain of sums in the order of the tokens ([`crate::model::Gradients`]). Rank 0 begins it, each rank receives the sums
//! of the one before it and goes on, and what the last has is complete. Each parameter has an owner, which alone holds its residue
//! and its optimizer state: at the end of each pass over a block it gets the gradient from the last rank, updates, and gives what
//! products read of the new weight to all. Between steps that is the same on every rank.
//!
//! Without `train.reproducible` each rank sums up its own rows alone, and who updates a parameter adds the sums of all ranks: they
//! compute side by side, and the order of the sums depends on their number.
//!
//! Where devices reach each other ([`crate::backend::Peers`]), gradients and weights go from one to the other among the
//! operations of each, and what updates did is asked for at the end of a step: no tensor makes the host wait.

mod exchanged;
mod stream;
mod together;

pub use exchanged::Exchanged;
pub(super) use together::Together;

use crate::backend::{Backend, Precision, UpdateStats};
use crate::config::{Config, TrainConfig};
use crate::error::RanksError;
use crate::memory::Span;
use crate::model::{AdapterKind, AdapterScale, SHORTEST_MICRO_SEQUENCE};
use crate::ranks::{Ranks, agree, rows};
use crate::store::ticks;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use together::Waiting;

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
    /// What gradients are rounded to on their way to who adds them.
    reduce_dtype: Precision,
    /// What a message is added to, or rounded from.
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
    /// Whether devices reach each other.
    direct: bool,
    /// Who made each update of the step, where that is asked for at its end; and what this rank's did.
    updaters: Vec<usize>,
    kept: Vec<UpdateStats>,
    /// Spans of a message that devices cannot reach.
    away: Vec<Span>,
}

impl Team {
    /// Allocates all that exchanges need here.
    pub fn new(ranks: Arc<dyn Ranks>, train: &TrainConfig, backend: &mut dyn Backend) -> Self {
        let reproducible = train.reproducible;
        let size = ranks.size();
        let (bytes, waiting, parts) = if size > 1 { (PIECE, MOST_WAITING, MOST_PARTS) } else { (0, 0, 0) };
        Self {
            ranks,
            chained: reproducible,
            failed: None,
            piece: vec![0; bytes],
            reduce_dtype: train.reduce_dtype,
            sums: vec![0.0; if reproducible { 0 } else { bytes / 4 }],
            numbers: vec![0; size],
            exchanging: Duration::ZERO,
            waiting: Vec::with_capacity(waiting),
            parts: Vec::with_capacity(parts),
            done: Vec::with_capacity(waiting),
            stats: UpdateStats::default(),
            direct: backend.peers().is_some(),
            updaters: Vec::new(),
            kept: Vec::new(),
            away: Vec::new(),
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

    /// For whom the others have waited since this was asked last: who spent the least time in exchanges, on its device where
    /// devices reach each other.
    pub fn straggler(&mut self, backend: &mut dyn Backend) -> Option<Straggler> {
        let mut own = std::mem::take(&mut self.exchanging);
        if self.is_alone() {
            return None;
        }
        if let Some(peers) = backend.peers() {
            own = Duration::from_secs_f64(peers.exchange_seconds());
        }
        let own = own.as_micros() as u64;
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
