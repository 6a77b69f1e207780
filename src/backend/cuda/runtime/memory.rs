//! The one allocation of a run, and the pinned buffer for copies between host and device.

use super::device::Device;
use super::symbols::Code;
use crate::error::BackendError;
use cudarc::driver::sys::{CUdeviceptr, CUevent, CUresult};
use std::cell::Cell;
use std::sync::Arc;

/// Device memory, freed when dropped.
pub(super) struct Arena {
    device: Arc<Device>,
    pub(super) base: CUdeviceptr,
    pub(super) bytes: usize,
}

impl Arena {
    /// Takes `bytes` bytes, at least one, and sets them to zero. The context is current.
    pub(super) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self, BackendError> {
        let (free, total) = device.memory()?;
        let refusal =
            || BackendError::Memory { device: device.name.clone(), needed: bytes as u64, free, total, kept: 0 };
        if bytes as u64 > free {
            return Err(refusal());
        }
        let mut base = 0;
        // SAFETY: the context is current; the address is written to a local.
        let code = unsafe { (device.driver.cuMemAlloc_v2)(&mut base, bytes) };
        if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY as Code {
            return Err(refusal());
        }
        device.check("taking memory", code)?;
        let arena = Self { device: device.clone(), base, bytes };
        // SAFETY: these are the bytes of the allocation.
        let code = unsafe { (device.driver.cuMemsetD8Async)(base, 0, bytes, device.stream) };
        device.check("setting memory to zero", code)?;
        Ok(arena)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.device.current();
        // SAFETY: taken by `new`; the driver waits for work that uses it.
        unsafe { (self.device.driver.cuMemFree_v2)(self.base) };
    }
}

/// Bytes of one piece of a copy.
const SLOT: usize = 1 << 20;
/// Pieces in flight at once.
const SLOTS: usize = 4;

/// Pinned host memory, in pieces that are used in turn. It is cached like any other memory: reading a write-combined
/// buffer would be a hundred times slower.
pub(super) struct Staging {
    device: Arc<Device>,
    base: *mut u8,
    /// For each piece: recorded after its last copy was submitted.
    events: [CUevent; SLOTS],
    next: Cell<usize>,
}

// SAFETY: the buffer is owned and events may be waited for in any thread with the context current.
unsafe impl Send for Staging {}

impl Staging {
    /// The buffer and its events. The context is current.
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, BackendError> {
        let null = std::ptr::null_mut();
        let mut staging = Self { device: device.clone(), base: null, events: [null.cast(); SLOTS], next: Cell::new(0) };
        let mut base = std::ptr::null_mut();
        // SAFETY: the context is current; the address is written to a local.
        let code = unsafe { (device.driver.cuMemHostAlloc)(&mut base, SLOT * SLOTS, 0) };
        device.check("taking pinned memory", code)?;
        staging.base = base.cast();
        for event in &mut staging.events {
            *event = device.event()?;
        }
        Ok(staging)
    }

    /// Copies bytes to the device. They may be changed afterwards, even while the last pieces are still in flight.
    pub(super) fn upload(&self, bytes: &[u8], mut to: CUdeviceptr) -> Code {
        for piece in bytes.chunks(SLOT) {
            let slot = self.turn(0);
            let code = self.wait(slot);
            if code != 0 {
                return code;
            }
            let from = self.piece(slot);
            // SAFETY: the slot is as long as the longest piece, and its last copy is over.
            unsafe { from.copy_from_nonoverlapping(piece.as_ptr(), piece.len()) };
            let (driver, stream) = (&self.device.driver, self.device.stream);
            // SAFETY: the caller gives an address with room for all bytes; the slot stays untouched until its event.
            let code = unsafe { (driver.cuMemcpyHtoDAsync_v2)(to, from.cast(), piece.len(), stream) };
            let code = if code == 0 { self.record(slot) } else { code };
            if code != 0 {
                return code;
            }
            self.next.set(self.turn(1));
            to += piece.len() as u64;
        }
        0
    }

    /// Copies bytes from the device and waits for them; pieces are requested ahead of their use.
    pub(super) fn download(&self, from: CUdeviceptr, bytes: &mut [u8]) -> Code {
        let total = bytes.len();
        let pieces = total.div_ceil(SLOT);
        let length = |piece: usize| SLOT.min(total - piece * SLOT);
        let ask = |piece: usize| {
            let slot = self.turn(piece);
            let code = self.wait(slot);
            if code != 0 {
                return code;
            }
            let (driver, stream) = (&self.device.driver, self.device.stream);
            let (to, from) = (self.piece(slot), from + (piece * SLOT) as u64);
            // SAFETY: the caller gives an address with that many bytes; the slot is as long as the longest piece, and
            // its last copy is over.
            let code = unsafe { (driver.cuMemcpyDtoHAsync_v2)(to.cast(), from, length(piece), stream) };
            if code == 0 { self.record(slot) } else { code }
        };
        let mut codes = (0..pieces.min(SLOTS)).map(ask);
        if let Some(code) = codes.find(|&code| code != 0) {
            return code;
        }
        for piece in 0..pieces {
            let slot = self.turn(piece);
            let code = self.wait(slot);
            if code != 0 {
                return code;
            }
            // SAFETY: the slot is as long as the longest piece, and the copy into it is over.
            let got = unsafe { std::slice::from_raw_parts(self.piece(slot), length(piece)) };
            let start = piece * SLOT;
            bytes[start..start + got.len()].copy_from_slice(got);
            let code = if piece + SLOTS < pieces { ask(piece + SLOTS) } else { 0 };
            if code != 0 {
                return code;
            }
        }
        self.next.set(self.turn(pieces));
        0
    }

    /// The slot that is `ahead` turns after the next.
    fn turn(&self, ahead: usize) -> usize {
        (self.next.get() + ahead) % SLOTS
    }

    fn piece(&self, slot: usize) -> *mut u8 {
        // SAFETY: `turn` gives slots inside the buffer.
        unsafe { self.base.add(slot * SLOT) }
    }

    fn wait(&self, slot: usize) -> Code {
        // SAFETY: the event was made by `new`; one that was never recorded is over.
        unsafe { (self.device.driver.cuEventSynchronize)(self.events[slot]) }
    }

    fn record(&self, slot: usize) -> Code {
        // SAFETY: event and stream belong to the context, which is current.
        unsafe { (self.device.driver.cuEventRecord)(self.events[slot], self.device.stream) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.device.current();
        for &event in self.events.iter().filter(|event| !event.is_null()) {
            // SAFETY: made by `new` and used by nobody else any more.
            unsafe { (self.device.driver.cuEventDestroy_v2)(event) };
        }
        if !self.base.is_null() {
            // SAFETY: taken by `new`; the owner has waited for all copies.
            unsafe { (self.device.driver.cuMemFreeHost)(self.base.cast()) };
        }
    }
}
