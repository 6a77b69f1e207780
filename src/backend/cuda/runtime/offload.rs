//! Parameters in host memory or in a file, which are copied to the device ahead of their use.
//!
//! Copies to the device have a stream of their own, and those from it another: both directions at once are what the bus can
//! do. On each stream they are carried out in the order in which they were submitted. A copy waits for all operations
//! submitted before it, one of which may still read what it replaces or write what it takes, and for the copies in the other
//! direction whose bytes it would change, or reads; operations wait for a copy only where [`Offloaded::wait_for`] says so.

use super::device::Device;
use super::stager::{Job, Stager};
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
    /// What of host memory the last copy from the slot writes: its first byte and how many.
    back: Option<(usize, usize)>,
    /// Recorded after that copy.
    written: CUevent,
    /// Recorded after the operations that the next copy, in either direction, waits for.
    used: CUevent,
    /// Bytes of the copy that `host` names.
    bytes: usize,
    /// Its number, if the stager makes it.
    job: u64,
}

impl Slot {
    /// Whether what it is filled with comes from any of these bytes of host memory.
    fn reads(&self, host: Span) -> bool {
        self.host.is_some_and(|from| overlap((from, self.bytes), (host.offset, host.bytes)))
    }

    /// Whether the last copy from it writes any of these bytes of host memory, or reads any of those of the arena.
    fn writes(&self, host: Span, to: Span) -> bool {
        self.back.is_some_and(|back| {
            overlap(back, (host.offset, host.bytes)) || overlap((self.offset, back.1), (to.offset, to.bytes))
        })
    }
}

/// Whether two ranges have a byte in common: first byte and length of each.
fn overlap((a, a_bytes): (usize, usize), (b, b_bytes): (usize, usize)) -> bool {
    a < b + b_bytes && b < a + a_bytes
}

/// Host memory and the copies between it and the device.
pub(super) struct Offloaded {
    device: Arc<Device>,
    /// Of copies to the device, and of those from it.
    inward: CUstream,
    outward: CUstream,
    base: *mut u8,
    bytes: usize,
    /// What `base` belongs to; nothing if it is pinned memory.
    file: Option<Box<dyn crate::memory::HostRegion>>,
    /// Copies to the device from memory that is not pinned.
    stager: Option<Stager>,
    slots: Vec<Slot>,
}

// SAFETY: memory, stream and events are owned and may be used from any thread with the context current.
unsafe impl Send for Offloaded {}

impl Offloaded {
    /// Takes the memory, pinned unless it is a file's, and makes a stream for copies. The context is current.
    pub(super) fn new(device: &Arc<Device>, memory: HostMemory) -> Result<Self, BackendError> {
        let (null, base) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (inward, outward, slots) = (null, null, Vec::new());
        let (file, stager) = (None, None);
        let mut offloaded = Self { device: device.clone(), inward, outward, base, bytes: 0, file, stager, slots };
        for stream in [&mut offloaded.inward, &mut offloaded.outward] {
            let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            // SAFETY: the context is current; the stream is written to a field.
            let code = unsafe { (device.driver.cuStreamCreate)(stream, flags) };
            device.check("making a stream for copies", code)?;
        }
        match memory {
            HostMemory::File(file) => {
                let (base, bytes) = file.memory();
                (offloaded.base, offloaded.bytes, offloaded.file) = (base.as_ptr(), bytes, Some(file));
                offloaded.stager = Some(Stager::new(device, offloaded.inward)?);
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
        let (from, code) = (self.first(host), self.settled(|slot| slot.offset == to.offset));
        let Slot { used, copied, .. } = self.slots[at];
        // What the slot held may still be on its way to the host, and what the host holds from another slot.
        let earlier = self.slots.iter().filter(|slot| slot.writes(host, to)).map(|slot| slot.written);
        let code = match &mut self.stager {
            Some(stager) => {
                let job = earlier.fold(Job::new(from, host.bytes, address, [used, copied]), Job::after);
                let code = first_failure(code, || record(&self.device, used, self.device.stream));
                // SAFETY: `first` proved the source to lie inside memory that lives as long as this, the caller the target;
                // events are destroyed after the stager's end. Until the copy was submitted nothing is written there:
                // `write` and `write_back` wait for that.
                self.slots[at].job = unsafe { stager.give(job) };
                code
            }
            None => {
                let code = first_failure(code, || self.after_operations(used, self.inward));
                let code = self.after_copies(code, earlier, self.inward);
                let driver = &self.device.driver;
                // SAFETY: `first` proved the source to lie inside memory that lives as long as this, the caller the target.
                let code = first_failure(code, || unsafe {
                    (driver.cuMemcpyHtoDAsync_v2)(address, from.cast(), host.bytes, self.inward)
                });
                first_failure(code, || record(&self.device, copied, self.inward))
            }
        };
        (self.slots[at].host, self.slots[at].bytes) = (Some(host.offset), host.bytes);
        Ok(code)
    }

    /// Operations submitted from now on wait for the copy to `to`, after [`Offloaded::prefetch`].
    pub(super) fn wait_for(&mut self, to: Span) -> Result<Code, BackendError> {
        let at = self.slot(to.offset)?;
        let code = self.settled(|slot| slot.offset == to.offset);
        Ok(first_failure(code, || self.after(self.slots[at].copied, self.device.stream)))
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
        let code = self.settled(|slot| slot.offset == from.offset || slot.reads(host));
        let code = first_failure(code, || self.after_operations(self.slots[at].used, self.outward));
        // What the host holds may still be on its way to a slot.
        let earlier = self.slots.iter().filter(|slot| slot.reads(host));
        let code = self.after_copies(code, earlier.map(|slot| slot.copied), self.outward);
        let driver = &self.device.driver;
        // SAFETY: `first` proved the target to lie inside memory that lives as long as this, the caller the source.
        let code = first_failure(code, || unsafe {
            (driver.cuMemcpyDtoHAsync_v2)(to.cast(), address, host.bytes, self.outward)
        });
        let code = first_failure(code, || record(&self.device, self.slots[at].written, self.outward));
        self.slots[at].back = Some((host.offset, host.bytes));
        Ok(code)
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
        let code = self.stager.as_ref().map_or(0, Stager::all_submitted);
        let streams = [self.device.stream, self.inward, self.outward];
        streams.into_iter().fold(code, |code, stream| first_failure(code, || sync(stream)))
    }

    /// Waits until the stager has submitted the copies to these slots: their events may then be used.
    fn settled(&self, which: impl Fn(&Slot) -> bool) -> Code {
        let last = self.slots.iter().filter(|slot| which(slot)).map(|slot| slot.job).max();
        self.stager.as_ref().map_or(0, |stager| stager.submitted(last.unwrap_or(0)))
    }

    /// Copies given to `stream` from now on wait for the operations given so far.
    fn after_operations(&self, used: CUevent, stream: CUstream) -> Code {
        first_failure(record(&self.device, used, self.device.stream), || self.after(used, stream))
    }

    /// And for the copies after which these events were recorded.
    fn after_copies(&self, code: Code, events: impl Iterator<Item = CUevent>, stream: CUstream) -> Code {
        events.fold(code, |code, event| first_failure(code, || self.after(event, stream)))
    }

    fn after(&self, event: CUevent, stream: CUstream) -> Code {
        // SAFETY: event and stream belong to the context, which is current.
        unsafe { (self.device.driver.cuStreamWaitEvent)(stream, event, 0) }
    }

    fn slot(&mut self, offset: usize) -> Result<usize, BackendError> {
        if let Some(at) = self.slots.iter().position(|slot| slot.offset == offset) {
            return Ok(at);
        }
        let null = std::ptr::null_mut();
        self.slots.push(Slot {
            offset,
            host: None,
            copied: null,
            back: None,
            written: null,
            used: null,
            bytes: 0,
            job: 0,
        });
        let (at, device) = (self.slots.len() - 1, self.device.clone());
        let slot = &mut self.slots[at];
        for event in [&mut slot.copied, &mut slot.written, &mut slot.used] {
            *event = device.event()?;
        }
        Ok(at)
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

fn record(device: &Device, event: CUevent, stream: CUstream) -> Code {
    // SAFETY: event and stream belong to the context, which is current.
    unsafe { (device.driver.cuEventRecord)(event, stream) }
}

fn first_failure(code: Code, next: impl FnOnce() -> Code) -> Code {
    if code == 0 { next() } else { code }
}

impl Drop for Offloaded {
    fn drop(&mut self) {
        // Its thread submits what it was given.
        self.stager = None;
        self.device.current();
        let driver = &self.device.driver;
        let streams = [self.inward, self.outward];
        if streams.iter().all(|stream| !stream.is_null()) {
            self.wait();
        }
        let events = self.slots.iter().flat_map(|slot| [slot.copied, slot.written, slot.used]);
        for event in events.filter(|event| !event.is_null()) {
            // SAFETY: made by `slot`; all that used it is done.
            unsafe { (driver.cuEventDestroy_v2)(event) };
        }
        for stream in streams.into_iter().filter(|stream| !stream.is_null()) {
            // SAFETY: made by `new`, and idle.
            unsafe { (driver.cuStreamDestroy_v2)(stream) };
        }
        if self.file.is_none() && !self.base.is_null() {
            // SAFETY: taken by `new`; no copy is under way.
            unsafe { (driver.cuMemFreeHost)(self.base.cast()) };
        }
    }
}
