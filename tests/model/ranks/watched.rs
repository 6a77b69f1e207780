//! Ranks whose calls a test sees.

use std::sync::Arc;
use tetrad::error::RanksError;
use tetrad::ranks::Ranks;

/// A call that one rank makes, with the bytes that it gives.
#[derive(Clone, Copy)]
pub enum Call {
    Send(usize),
    Recv,
    /// Nothing unless they are this rank's.
    Share(usize),
    Gather,
}

/// A rank that shows each call to `see`, and makes it if that allows it.
pub struct Watched<F> {
    pub inner: Arc<dyn Ranks>,
    pub see: F,
}

impl<F: Fn(Call) -> Result<(), RanksError> + Send + Sync> Ranks for Watched<F> {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn send(&self, bytes: &[u8], to: usize) -> Result<(), RanksError> {
        (self.see)(Call::Send(bytes.len()))?;
        self.inner.send(bytes, to)
    }

    fn recv(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        (self.see)(Call::Recv)?;
        self.inner.recv(bytes, from)
    }

    fn share(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        (self.see)(Call::Share(if from == self.rank() { bytes.len() } else { 0 }))?;
        self.inner.share(bytes, from)
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) -> Result<(), RanksError> {
        (self.see)(Call::Gather)?;
        self.inner.gather(own, all)
    }

    fn finish(&self) -> Result<(), RanksError> {
        self.inner.finish()
    }

    fn abort(&self, code: u8) {
        self.inner.abort(code);
    }
}
