//! The devices of other ranks: spans that go there and come from there, and bytes of the host by the same way.

use super::Cuda;
use super::ops::{adam_statistics, sums};
use super::runtime::{Communicator, Gpu, Lost, NcclLibrary, UniqueId};
use crate::backend::{Peers, Precision, UpdateStats};
use crate::error::{BackendError, RanksError};
use crate::memory::Span;
use crate::ranks::Ranks;
use std::sync::Arc;
use std::time::Duration;

impl Cuda {
    /// Meets the devices of the other ranks at `id`, as rank `rank.0` of `rank.1`; before [`crate::backend::Memory::allocate`]. A
    /// peer is waited for no longer than `limit`. `lost` is called, on another thread, if a peer was lost and this process
    /// stands still in the driver for good: nothing but its end helps then.
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
    ) -> Result<Arc<dyn Ranks>, BackendError> {
        Ok(Arc::new(ByNccl(self.gpu.join(library, rank, id, limit, lost)?)))
    }
}

/// Spans cut so that each part fits into the memory for received sums, the same on both sides.
fn cut(spans: &[Span]) -> impl Iterator<Item = Span> {
    spans.iter().flat_map(|&span| {
        let parts = (0..span.bytes).step_by(Gpu::MOST_SUMS);
        parts.map(move |from| span.part(from, Gpu::MOST_SUMS.min(span.bytes - from)))
    })
}

impl Peers for Cuda {
    fn send(&mut self, spans: &[Span], to: usize) {
        self.gpu.send(spans, to);
    }

    fn recv(&mut self, spans: &[Span], from: usize) {
        self.gpu.recv(spans, from);
    }

    fn send_sums(&mut self, spans: &[Span], to: usize, dtype: Precision) {
        for part in cut(spans) {
            match dtype {
                Precision::F32 => self.gpu.send(&[part], to),
                Precision::Bf16 => {
                    sums::round(&mut self.gpu, part);
                    self.gpu.send_sums(part.bytes / 2, to);
                }
            }
        }
    }

    fn add_sums(&mut self, spans: &[Span], from: usize, dtype: Precision) {
        for part in cut(spans) {
            self.gpu.recv_sums(if dtype == Precision::Bf16 { part.bytes / 2 } else { part.bytes }, from);
            sums::add(&mut self.gpu, part, dtype);
        }
    }

    fn share(&mut self, spans: &[Span], from: usize) {
        self.gpu.share(spans, from);
    }

    fn exchange_seconds(&mut self) -> f64 {
        self.gpu.exchange_seconds()
    }

    fn keep_stats(&mut self) {
        if self.kept == Gpu::MOST_ASIDE {
            self.read_kept();
        }
        adam_statistics::put_stats_aside(&mut self.gpu, self.kept);
        self.kept += 1;
    }

    fn kept_stats(&mut self, kept: &mut Vec<UpdateStats>) {
        self.read_kept();
        kept.append(&mut self.read);
    }
}

impl Cuda {
    /// Fetches what lies on the device, which then has room for more.
    fn read_kept(&mut self) {
        adam_statistics::read_stats_aside(&self.gpu, std::mem::take(&mut self.kept), &mut self.read);
    }
}

/// Bytes of the host go through the device, where there is nothing else that connects the ranks.
struct ByNccl(Arc<Communicator>);

impl Ranks for ByNccl {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn describe(&self) -> String {
        self.0.version().to_owned()
    }

    fn send(&self, bytes: &[u8], to: usize) -> Result<(), RanksError> {
        self.0.send_bytes(bytes, to)
    }

    fn recv(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        self.0.recv_bytes(bytes, from)
    }

    fn share(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        self.0.share_bytes(bytes, from)
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) -> Result<(), RanksError> {
        self.0.gather(own, all)
    }

    fn wait_at_most(&self, limit: Option<Duration>) {
        self.0.wait_at_most(limit);
    }

    fn finish(&self) -> Result<(), RanksError> {
        self.0.finish()
    }

    /// Peers are told by NCCL that this rank is gone; whoever started this process sees its exit status.
    fn abort(&self, _: u8) {
        self.0.abort();
    }
}
