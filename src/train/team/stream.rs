//! Spans on their way to other ranks: from device to device, or through the host.

use super::together::Waiting;
use super::{MOST_PARTS, PIECE, Team};
use crate::backend::{Backend, Precision};
use crate::error::RanksError;
use crate::memory::{Place, Span};
use half::bf16;
use zerocopy::IntoBytes;

/// Where a stream of bytes goes.
#[derive(Clone, Copy)]
pub(super) enum Way {
    Send(usize),
    Recv(usize),
    /// What is sent is added to what is there, float32.
    SendSums(usize),
    /// What is received is added to what is there, float32.
    Add(usize),
    Share(usize),
}

impl Team {
    /// Moves spans: those on devices that reach each other from one to the other, the rest through the host.
    pub(super) fn stream(&mut self, backend: &mut dyn Backend, spans: impl Iterator<Item = Span>, way: Way) {
        if !self.direct {
            return self.stream_bytes(backend, spans, way);
        }
        let mut away = std::mem::take(&mut self.away);
        for span in spans {
            match span.place {
                Place::Arena => self.parts.push(span),
                _ => away.push(span),
            }
            if self.parts.len() == MOST_PARTS {
                self.between_devices(backend, way);
            }
        }
        self.between_devices(backend, way);
        self.stream_bytes(backend, away.drain(..), way);
        self.away = away;
    }

    /// Moves the parts that were collected; a failure is the device's to tell.
    fn between_devices(&mut self, backend: &mut dyn Backend, way: Way) {
        let peers = backend.peers().filter(|_| self.failed.is_none() && !self.parts.is_empty());
        if let Some(peers) = peers {
            match way {
                Way::Send(to) => peers.send(&self.parts, to),
                Way::Recv(from) => peers.recv(&self.parts, from),
                Way::SendSums(to) => peers.send_sums(&self.parts, to, self.reduce_dtype),
                Way::Add(from) => peers.add_sums(&self.parts, from, self.reduce_dtype),
                Way::Share(from) => peers.share(&self.parts, from),
            }
        }
        self.parts.clear();
    }

    /// Moves spans as one stream of bytes through the host, in messages as long as the buffer.
    fn stream_bytes(&mut self, backend: &mut dyn Backend, spans: impl Iterator<Item = Span>, way: Way) {
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
        let sums = matches!(way, Way::SendSums(_) | Way::Add(_));
        let narrow = sums && self.reduce_dtype == Precision::Bf16;
        let sent = |bytes: usize| if narrow { bytes / 2 } else { bytes };
        let (ranks, message) = (self.ranks.as_ref(), &mut self.piece[..sent(bytes)]);
        let own = match way {
            Way::Send(_) | Way::SendSums(_) => true,
            Way::Recv(_) | Way::Add(_) => false,
            Way::Share(from) => from == ranks.rank(),
        };
        let mut at = 0;
        for part in self.parts.iter().filter(|_| own) {
            let to = &mut message[at..at + sent(part.bytes)];
            match narrow {
                false => backend.download(*part, to),
                true => round(backend, *part, &mut self.sums, to),
            }
            at += to.len();
        }
        match way {
            Way::Send(to) | Way::SendSums(to) => ranks.send(message, to)?,
            Way::Recv(from) | Way::Add(from) => ranks.recv(message, from)?,
            Way::Share(from) => ranks.share(message, from)?,
        }
        for part in self.parts.drain(..).filter(|_| !own) {
            let received = &message[at..at + sent(part.bytes)];
            at += received.len();
            match (sums, narrow) {
                (false, _) => backend.upload(received, part),
                (true, false) => add(backend, part, &mut self.sums, received.as_chunks().0, f32::from_le_bytes),
                (true, true) => add(backend, part, &mut self.sums, received.as_chunks().0, |bytes| {
                    bf16::from_le_bytes(bytes).to_f32()
                }),
            }
        }
        Ok(())
    }

    /// Brings the gradients of a pass to who updates them.
    pub(super) fn deliver(&mut self, backend: &mut dyn Backend, waiting: &[Waiting]) {
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        for owner in 0..size {
            let grads = || waiting.iter().filter(|waiting| waiting.owner == owner).map(|waiting| waiting.grad);
            match (self.chained, rank == owner) {
                // The last rank has them all.
                (true, true) if rank + 1 < size => self.stream(backend, grads(), Way::Recv(size - 1)),
                (true, false) if rank + 1 == size => self.stream(backend, grads(), Way::Send(owner)),
                (true, _) => {}
                (false, false) => self.stream(backend, grads(), Way::SendSums(owner)),
                (false, true) => {
                    for from in (0..size).filter(|from| *from != owner) {
                        self.stream(backend, grads(), Way::Add(from));
                    }
                }
            }
        }
    }
}

/// The sums in `part`, rounded to bfloat16.
fn round(backend: &mut dyn Backend, part: Span, sums: &mut [f32], to: &mut [u8]) {
    let sums = &mut sums[..part.bytes / 4];
    backend.download(part, sums.as_mut_bytes());
    for (to, sum) in to.as_chunks_mut().0.iter_mut().zip(sums) {
        *to = bf16::from_f32(*sum).to_le_bytes();
    }
}

/// Adds what was received to the sums in `part`.
fn add<const N: usize>(
    backend: &mut dyn Backend,
    part: Span,
    sums: &mut [f32],
    received: &[[u8; N]],
    number: impl Fn([u8; N]) -> f32,
) {
    let sums = &mut sums[..part.bytes / 4];
    backend.download(part, sums.as_mut_bytes());
    for (sum, more) in sums.iter_mut().zip(received) {
        *sum += number(*more);
    }
    backend.upload(sums.as_bytes(), part);
}
