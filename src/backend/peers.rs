//! What goes from a device to those of other ranks.

use super::{Precision, UpdateStats};
use crate::memory::Span;

/// The devices of other ranks, reached without the host: calls are operations like others, carried out in the order in which
/// they were submitted, and no call waits for a peer. Every rank makes the calls that belong to its peers' in the same order. A
/// peer that is lost is reported by [`super::Memory::status`], and by what waits for the device.
///
/// Spans lie in the arena.
pub trait Peers {
    /// Sends spans to a rank, which receives as many of the same lengths.
    fn send(&mut self, spans: &[Span], to: usize);

    /// Receives spans.
    fn recv(&mut self, spans: &[Span], from: usize);

    /// Sends float32 spans, rounded to `dtype`, to a rank that adds them to its own.
    fn send_sums(&mut self, spans: &[Span], to: usize, dtype: Precision);

    /// Receives float32 spans that were rounded to `dtype` and adds them to those that are there, each element once: `there +
    /// received`.
    fn add_sums(&mut self, spans: &[Span], from: usize, dtype: Precision);

    /// Gives the spans of one rank to all.
    fn share(&mut self, spans: &[Span], from: usize);

    /// Seconds that this device spent in such calls, waiting for peers included, since this was asked last. It is not waited for:
    /// what it has not come to yet does not count.
    fn exchange_seconds(&mut self) -> f64;

    /// Keeps what updates did since the last call, or since [`super::ops::Update::update_stats`] was asked, without waiting for
    /// them.
    fn keep_stats(&mut self);

    /// What was kept since this was asked last, in order, after what `kept` holds. Waits for it.
    fn kept_stats(&mut self, kept: &mut Vec<UpdateStats>);
}
