//! What goes between devices: NCCL's calls on addresses.

use super::super::symbols::{Code, Nccl, NcclComm};
use super::Communicator;
use crate::error::RanksError;
use std::ffi::{c_int, c_uint, c_void};

/// Bytes: nothing is added up by NCCL.
const BYTES: c_uint = 1;

/// Bytes on the device: an address, and how many.
pub(in super::super) type Piece = (u64, usize);

/// The first code that is not a success.
fn first(codes: impl IntoIterator<Item = Code>) -> Code {
    codes.into_iter().find(|&code| code != 0).unwrap_or(0)
}

impl Communicator {
    /// Sends pieces to a rank that receives as many of the same lengths.
    ///
    /// # Safety
    /// The pieces lie in memory of this rank's device that is freed only after all operations.
    pub(in super::super) unsafe fn send(&self, pieces: &[Piece], to: usize) -> Result<(), RanksError> {
        let stream = self.device.stream;
        self.group("ncclSend", pieces, |nccl, comm, (at, bytes)| {
            // SAFETY: the caller's promise; the stream lives as long as the device.
            unsafe { (nccl.ncclSend)(at as *const c_void, bytes, BYTES, to as c_int, comm, stream) }
        })
    }

    /// Receives pieces.
    ///
    /// # Safety
    /// As [`Communicator::send`], and nothing else uses them at the same time.
    pub(in super::super) unsafe fn recv(&self, pieces: &[Piece], from: usize) -> Result<(), RanksError> {
        let stream = self.device.stream;
        self.group("ncclRecv", pieces, |nccl, comm, (at, bytes)| {
            // SAFETY: the caller's promise; the stream lives as long as the device.
            unsafe { (nccl.ncclRecv)(at as *mut c_void, bytes, BYTES, from as c_int, comm, stream) }
        })
    }

    /// Gives the pieces of one rank to all.
    ///
    /// # Safety
    /// As [`Communicator::recv`].
    pub(in super::super) unsafe fn share(&self, pieces: &[Piece], from: usize) -> Result<(), RanksError> {
        let stream = self.device.stream;
        self.group("ncclBroadcast", pieces, |nccl, comm, (at, bytes)| {
            // SAFETY: the caller's promise; the stream lives as long as the device.
            unsafe { (nccl.ncclBroadcast)(at as _, at as _, bytes, BYTES, from as c_int, comm, stream) }
        })
    }

    /// Gathers `bytes` bytes of each rank, in their order.
    ///
    /// # Safety
    /// As [`Communicator::recv`]; `all` has room for as many bytes of each rank.
    pub(super) unsafe fn gather_device(&self, own: u64, all: u64, bytes: usize) -> Result<(), RanksError> {
        let stream = self.device.stream;
        self.call("ncclAllGather", |nccl, comm| {
            // SAFETY: the caller's promise; the stream lives as long as the device.
            unsafe { (nccl.ncclAllGather)(own as _, all as _, bytes, BYTES, comm, stream) }
        })
    }

    fn group(
        &self,
        name: &'static str,
        pieces: &[Piece],
        queue: impl Fn(&Nccl, NcclComm, Piece) -> Code,
    ) -> Result<(), RanksError> {
        self.call(name, |nccl, comm| {
            // SAFETY: neither takes an argument; what was begun is ended whatever happened in between.
            let begun = unsafe { (nccl.ncclGroupStart)() };
            let queued = first(pieces.iter().map(|&piece| queue(nccl, comm, piece)));
            // SAFETY: as above.
            let ended = unsafe { (nccl.ncclGroupEnd)() };
            first([begun, queued, ended])
        })
    }
}
