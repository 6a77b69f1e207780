//! Bytes of the host that go to other ranks, through the device.

use super::{Communicator, STAGE};
use crate::error::RanksError;
use std::sync::PoisonError;

impl Communicator {
    /// Sends `bytes` to rank `to`, which receives as many. It does not wait for that.
    ///
    /// # Errors
    /// If a rank is lost, or the device failed.
    pub fn send_bytes(&self, bytes: &[u8], to: usize) -> Result<(), RanksError> {
        bytes.chunks(STAGE).try_for_each(|piece| {
            self.upload(piece)?;
            // SAFETY: the stage is as long as the longest piece.
            unsafe { self.send(&[(self.stage(), piece.len())], to) }
        })
    }

    /// Fills `bytes` with what rank `from` sends.
    ///
    /// # Errors
    /// As [`Communicator::send_bytes`].
    pub fn recv_bytes(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        bytes.chunks_mut(STAGE).try_for_each(|piece| {
            // SAFETY: the stage is as long as the longest piece; operations use it one after the other.
            unsafe { self.recv(&[(self.stage(), piece.len())], from) }?;
            self.download(0, piece)
        })
    }

    /// Gives all ranks the bytes that rank `from` has.
    ///
    /// # Errors
    /// As [`Communicator::send_bytes`].
    pub fn share_bytes(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        bytes.chunks_mut(STAGE).try_for_each(|piece| {
            if from == self.rank() {
                self.upload(piece)?;
            }
            // SAFETY: the stage is as long as the longest piece; operations use it one after the other.
            unsafe { self.share(&[(self.stage(), piece.len())], from) }?;
            if from == self.rank() { Ok(()) } else { self.download(0, piece) }
        })
    }

    /// Fills `all` with every rank's `own`, in their order.
    ///
    /// # Errors
    /// As [`Communicator::send_bytes`].
    ///
    /// # Panics
    /// If `all` is not as long as `own` of every rank together, or the ranks are so many that they have less than a byte each.
    pub fn gather(&self, own: &[u8], all: &mut [u8]) -> Result<(), RanksError> {
        let size = self.size();
        assert_eq!(all.len(), own.len() * size, "room for all ranks");
        let most = STAGE / (size + 1);
        assert!(most > 0, "{size} ranks are more than gather at once");
        let mut gathered = vec![0; most.min(own.len()) * size];
        (0..own.len()).step_by(most).try_for_each(|from| {
            let bytes = most.min(own.len() - from);
            self.upload(&own[from..from + bytes])?;
            // SAFETY: the own part is before those of all ranks, and all lie in the stage.
            unsafe { self.gather_device(self.stage(), self.stage() + bytes as u64, bytes) }?;
            let gathered = &mut gathered[..bytes * size];
            self.download(bytes, gathered)?;
            for (rank, part) in gathered.chunks_exact(bytes).enumerate() {
                all[rank * own.len() + from..][..bytes].copy_from_slice(part);
            }
            Ok(())
        })
    }

    fn upload(&self, bytes: &[u8]) -> Result<(), RanksError> {
        self.copying("an upload to be sent", || {
            self.staging.lock().unwrap_or_else(PoisonError::into_inner).upload(bytes, self.stage())
        })
    }

    /// Waits for what was received, `from` bytes into the stage.
    fn download(&self, from: usize, bytes: &mut [u8]) -> Result<(), RanksError> {
        self.copying("a download of what was received", || {
            let staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            staging.download(self.stage() + from as u64, bytes)
        })
    }

    /// A copy between host and device.
    fn copying(&self, what: &'static str, copy: impl FnOnce() -> super::Code) -> Result<(), RanksError> {
        self.enter()?;
        let code = match self.device.current() {
            0 => copy(),
            code => code,
        };
        self.leave()?;
        if code != 0 {
            self.ask()?;
        }
        self.device.check(what, code).map_err(|error| {
            self.shared.fail(RanksError::Call { call: "a copy between host and device", said: error.to_string() })
        })
    }
}
