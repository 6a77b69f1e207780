//! Parameters in host memory or in a file, which are copied to the device ahead of their use.
//!
//! Copies have a stream of their own, on which they are carried out in the order in which they were submitted. A copy to
//! the device waits for all operations submitted before it, one of which may still read what it replaces; operations
//! wait for a copy only where [`Offloaded::wait_for`] says so.

use super::device::Device;
use super::symbols::Code;
use crate::error::BackendError;
use crate::memory::{HostMemory, Span};
use cudarc::driver::sys::{CUdeviceptr, CUevent, CUstream, CUstream_flags};
use std::sync::Arc;

/// A span of the arena that host memory is copied to.
struct Slot {
    /// First byte in the arena.
    offset: usize,
    /// First byte in host memory of what the slot holds, or will hold once `copied` is over.
    host: Option<usize>,
    /// Recorded after the copy to the device.
    copied: CUevent,
    /// Recorded after the operations that the next copy, in either direction, waits for.
    used: CUevent,
}

/// Host memory and the copies between it and the device.
pub(super) struct Offloaded {
    device: Arc<Device>,
    copies: CUstream,
    base: *mut u8,
    bytes: usize,
    /// What `base` belongs to; nothing if it is pinned memory.
    file: Option<Box<dyn crate::memory::HostRegion>>,
    slots: Vec<Slot>,
}

// SAFETY: memory, stream and events are owned and may be used from any thread with the context current.
unsafe impl Send for Offloaded {}

impl Offloaded {
    /// Takes the memory, pinned unless it is a file's, and makes a stream for copies. The context is current.
    pub(super) fn new(device: &Arc<Device>, memory: HostMemory) -> Result<Self, BackendError> {
        let null = std::ptr::null_mut();
        let mut offloaded =
            Self { device: device.clone(), copies: null, base: null.cast(), bytes: 0, file: None, slots: Vec::new() };
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current; the stream is written to a field.
        let code = unsafe { (device.driver.cuStreamCreate)(&mut offloaded.copies, flags) };
        device.check("making a stream for copies", code)?;
        match memory {
            HostMemory::File(file) => {
                let (base, bytes) = file.memory();
                (offloaded.base, offloaded.bytes, offloaded.file) = (base.as_ptr(), bytes, Some(file));
            }
            HostMemory::Bytes(bytes) => {
                let mut base = std::ptr::null_mut();
                // SAFETY: the context is current; the address is written to a local.
                let code = unsafe { (device.driver.cuMemHostAlloc)(&mut base, bytes, 0) };
                device.check("taking pinned memory for parameters", code)?;
                (offloaded.base, offloaded.bytes) = (base.cast(), bytes);
                // SAFETY: the driver gave that many bytes, which nothing else refers to yet.
                unsafe { offloaded.base.write_bytes(0, bytes) };
            }
        }
        Ok(offloaded)
    }

    /// The bytes of a span, once all copies are done.
    ///
    /// # Panics
    /// If the span is not inside.
    pub(super) fn read(&self, span: Span, out: &mut [u8]) -> Code {
        let code = self.wait();
        // SAFETY: `first` proved the span to lie inside; no copy is under way.
        out.copy_from_slice(unsafe { std::slice::from_raw_parts(self.first(span), span.bytes) });
        code
    }

    /// Changes the bytes of a span with `write`; what was copied of it before is no longer the same.
    ///
    /// # Panics
    /// If the span is not inside.
    pub(super) fn write(&mut self, span: Span, write: impl FnOnce(&mut [u8])) -> Code {
        let code = self.wait();
        self.slots.iter_mut().for_each(|slot| slot.host = None);
        // SAFETY: `first` proved the span to lie inside; no copy is under way, and `self` is borrowed alone.
        write(unsafe { std::slice::from_raw_parts_mut(self.first(span), span.bytes) });
        code
    }

    /// Starts copying `host` to `to` unless it holds it already.
    ///
    /// # Safety
    /// `to` is at `address` in device memory that lives as long as this, and as long as `host`.
    pub(super) unsafe fn prefetch(&mut self, host: Span, to: Span, address: CUdeviceptr) -> Result<Code, BackendError> {
        let at = self.slot(to.offset)?;
        if self.slots[at].host == Some(host.offset) {
            return Ok(0);
        }
        if let Some(file) = &self.file {
            file.prefetch(host.offset, host.bytes);
        }
        let from = self.first(host);
        let (driver, used) = (&self.device.driver, self.slots[at].used);
        let code = self.after_operations(used);
        // SAFETY: `first` proved the source to lie inside memory that lives as long as this, the caller the target.
        let code = first_failure(code, || unsafe {
            (driver.cuMemcpyHtoDAsync_v2)(address, from.cast(), host.bytes, self.copies)
        });
        // SAFETY: event and stream belong to the context, which is current.
        let code = first_failure(code, || unsafe { (driver.cuEventRecord)(self.slots[at].copied, self.copies) });
        self.slots[at].host = Some(host.offset);
        Ok(code)
    }

    /// Operations submitted from now on wait for the copy to `to`, after [`Offloaded::prefetch`].
    pub(super) fn wait_for(&mut self, to: Span) -> Result<Code, BackendError> {
        let at = self.slot(to.offset)?;
        let (driver, stream) = (&self.device.driver, self.device.stream);
        // SAFETY: event and stream belong to the context, which is current.
        Ok(unsafe { (driver.cuStreamWaitEvent)(stream, self.slots[at].copied, 0) })
    }

    /// Starts copying `from` to `host`.
    ///
    /// # Safety
    /// `from` is at `address` in device memory that lives as long as this, and as long as `host`.
    pub(super) unsafe fn write_back(
        &mut self,
        from: Span,
        host: Span,
        address: CUdeviceptr,
    ) -> Result<Code, BackendError> {
        let at = self.slot(from.offset)?;
        let to = self.first(host);
        let driver = &self.device.driver;
        let code = self.after_operations(self.slots[at].used);
        // SAFETY: `first` proved the target to lie inside memory that lives as long as this, the caller the source.
        Ok(first_failure(code, || unsafe {
            (driver.cuMemcpyDtoHAsync_v2)(to.cast(), address, host.bytes, self.copies)
        }))
    }

    /// A hint that a span will not be needed for a while.
    ///
    /// # Panics
    /// If it is not inside.
    pub(super) fn advise_cold(&self, span: Span) {
        if let Some(file) = &self.file {
            file.advise_cold(span.offset, span.bytes, true);
        }
    }

    /// Waits for all copies, and for the operations that they wait for.
    pub(super) fn wait(&self) -> Code {
        // SAFETY: the streams live as long as this.
        let sync = |stream| unsafe { (self.device.driver.cuStreamSynchronize)(stream) };
        first_failure(sync(self.device.stream), || sync(self.copies))
    }

    /// Copies given from now on wait for the operations given so far.
    fn after_operations(&self, used: CUevent) -> Code {
        let driver = &self.device.driver;
        // SAFETY: event and streams belong to the context, which is current.
        let code = unsafe { (driver.cuEventRecord)(used, self.device.stream) };
        // SAFETY: as above.
        first_failure(code, || unsafe { (driver.cuStreamWaitEvent)(self.copies, used, 0) })
    }

    fn slot(&mut self, offset: usize) -> Result<usize, BackendError> {
        if let Some(at) = self.slots.iter().position(|slot| slot.offset == offset) {
            return Ok(at);
        }
        let (copied, used) = (self.device.event()?, self.device.event()?);
        self.slots.push(Slot { offset, host: None, copied, used });
        Ok(self.slots.len() - 1)
    }

    fn first(&self, span: Span) -> *mut u8 {
        assert!(
            span.end() <= self.bytes,
            "span {}+{} outside host memory of {} bytes",
            span.offset,
            span.bytes,
            self.bytes
        );
        // SAFETY: the span ends inside the memory, so its start is inside too.
        unsafe { self.base.add(span.offset) }
    }
}

fn first_failure(code: Code, next: impl FnOnce() -> Code) -> Code {
    if code == 0 { next() } else { code }
}

impl Drop for Offloaded {
    fn drop(&mut self) {
        self.device.current();
        let driver = &self.device.driver;
        if !self.copies.is_null() {
            self.wait();
        }
        for slot in &self.slots {
            for event in [slot.copied, slot.used] {
                // SAFETY: made by `slot`; all that used it is done.
                unsafe { (driver.cuEventDestroy_v2)(event) };
            }
        }
        if !self.copies.is_null() {
            // SAFETY: made by `new`, and idle.
            unsafe { (driver.cuStreamDestroy_v2)(self.copies) };
        }
        if self.file.is_none() && !self.base.is_null() {
            // SAFETY: taken by `new`; no copy is under way.
            unsafe { (driver.cuMemFreeHost)(self.base.cast()) };
        }
    }
}
