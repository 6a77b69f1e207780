//! What goes from this device to those of other ranks, and comes from them.

use super::gpu::Gpu;
use super::nccl::{ASIDE, Communicator, Lost, NcclLibrary, SUMS, UniqueId};
use crate::error::{BackendError, RanksError};
use crate::memory::Span;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one thing that is put aside.
const ENTRY: usize = 32;

impl Gpu {
    /// Meets the devices of the other ranks; this is rank `rank.0` of `rank.1`. A peer is waited for no longer than `limit`,
    /// here and later; `lost` is called if the driver does not return even after that.
    ///
    /// # Errors
    /// If a rank does not come, or the ranks do not belong together.
    pub fn join(
        &mut self,
        library: NcclLibrary,
        rank: (usize, usize),
        id: &UniqueId,
        limit: Option<Duration>,
        lost: Lost,
    ) -> Result<Arc<Communicator>, BackendError> {
        let made = Arc::new(Communicator::meet(&self.device, library, rank, id, limit, lost)?);
        self.peers = Some(made.clone());
        Ok(made)
    }

    /// Whether there are other ranks.
    pub fn is_joined(&self) -> bool {
        self.peers.is_some()
    }

    /// Sends spans to a rank that receives as many of the same lengths.
    ///
    /// # Panics
    /// If a span is not inside the arena, or there are no other ranks.
    pub fn send(&mut self, spans: &[Span], to: usize) {
        // SAFETY: `exchange` gives addresses inside the arena.
        self.exchange("send", spans, |peers, pieces| unsafe { peers.send(pieces, to) });
    }

    /// Receives spans.
    ///
    /// # Panics
    /// As [`Gpu::send`].
    pub fn recv(&mut self, spans: &[Span], from: usize) {
        // SAFETY: as above; the stream's operations use them one after the other.
        self.exchange("receive", spans, |peers, pieces| unsafe { peers.recv(pieces, from) });
    }

    /// Gives the spans of one rank to all.
    ///
    /// # Panics
    /// As [`Gpu::send`].
    pub fn share(&mut self, spans: &[Span], from: usize) {
        // SAFETY: as above.
        self.exchange("share", spans, |peers, pieces| unsafe { peers.share(pieces, from) });
    }

    /// Receives what is to be added to a part of a span, no longer than [`Gpu::MOST_SUMS`], at [`Gpu::sums`].
    ///
    /// # Panics
    /// If the part is longer, or there are no other ranks.
    pub fn recv_sums(&mut self, bytes: usize, from: usize) {
        let (peers, piece) = self.sums_of(bytes);
        // SAFETY: the communicator's own memory has room for as many; the stream's operations use it one after the other.
        self.peer_call("receive", || unsafe { peers.recv(&[piece], from) });
    }

    /// Sends what lies at [`Gpu::sums`].
    ///
    /// # Panics
    /// As [`Gpu::recv_sums`].
    pub fn send_sums(&mut self, bytes: usize, to: usize) {
        let (peers, piece) = self.sums_of(bytes);
        // SAFETY: as above.
        self.peer_call("send", || unsafe { peers.send(&[piece], to) });
    }

    /// The address of memory for [`Gpu::MOST_SUMS`] bytes on their way to or from a rank, until the next that go there.
    ///
    /// # Panics
    /// If there are no other ranks.
    pub fn sums(&self) -> u64 {
        self.peers.as_ref().expect("there are other ranks").sums()
    }

    fn sums_of(&self, bytes: usize) -> (Arc<Communicator>, (u64, usize)) {
        assert!(bytes <= SUMS, "{bytes} bytes of sums at once, {SUMS} at most");
        let peers = self.peers.clone().expect("there are other ranks");
        let at = peers.sums();
        (peers, (at, bytes))
    }

    /// Bytes of sums that travel at once.
    pub const MOST_SUMS: usize = SUMS;

    /// Seconds that the device spent in exchanges, waiting for peers included, since this was asked last, as far as it has come.
    pub fn exchange_seconds(&mut self) -> f64 {
        if self.begin("reading the time of exchanges") { self.exchanging.take() } else { 0.0 }
    }

    /// Copies a span of 32 bytes to the place of number `number`, of [`Gpu::MOST_ASIDE`], where the host reads it later.
    ///
    /// # Panics
    /// If the span has another length, there is no such place, or there are no other ranks.
    pub fn put_aside(&mut self, span: Span, number: usize) {
        assert!(span.bytes == ENTRY && number < Self::MOST_ASIDE, "{} bytes for place {number}", span.bytes);
        let (from, to) = (self.address(span), self.aside() + (number * ENTRY) as u64);
        self.act("put aside", ENTRY, |driver, stream| {
            // SAFETY: `address` proved the span to lie inside the arena, and the place is inside the communicator's memory.
            unsafe { (driver.cuMemcpyDtoDAsync_v2)(to, from, ENTRY, stream) }
        });
    }

    /// What was put aside into the first places; waits for it. Zeros after a failure.
    ///
    /// # Panics
    /// If there are fewer places, or no other ranks.
    pub fn read_aside(&self, bytes: &mut [u8]) {
        assert!(bytes.len() <= ASIDE, "{} bytes of {ASIDE} that are put aside", bytes.len());
        self.download_from(self.aside(), bytes);
    }

    /// Places for what is put aside.
    pub const MOST_ASIDE: usize = ASIDE / ENTRY;

    fn aside(&self) -> u64 {
        self.peers.as_ref().expect("there are other ranks").aside()
    }

    fn exchange(
        &mut self,
        what: &'static str,
        spans: &[Span],
        queue: impl FnOnce(&Communicator, &[(u64, usize)]) -> Result<(), RanksError>,
    ) {
        let peers = self.peers.clone().expect("there are other ranks");
        let pieces: Vec<_> = spans.iter().map(|&span| (self.address(span), span.bytes)).collect();
        self.peer_call(what, || queue(&peers, &pieces));
    }

    fn peer_call(&mut self, what: &'static str, queue: impl FnOnce() -> Result<(), RanksError>) {
        if self.begin(what) {
            match self.exchanging.measure(queue) {
                Ok(()) => self.end(what, 0),
                Err(error) => self.remember(error.into()),
            }
        }
    }
}
