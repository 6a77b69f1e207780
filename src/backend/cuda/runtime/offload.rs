//! Parameters that live in this machine's memory or in a file, and come to the device ahead of their use.
//!
//! Copies have a stream of their own, on which they are done in the order they were given. A copy to the device waits
//! for all operations given before it, one of which may still read what it replaces; operations wait for a copy only
//! where [`Home::arrive`] says so.

use super::device::Device;
use super::symbols::Code;
use crate::error::BackendError;
use crate::memory::{HomeMemory, Span};
use cudarc::driver::sys::{CUdeviceptr, CUevent, CUstream, CUstream_flags};
use std::sync::Arc;

/// A place on the device that is fetched to.
struct Visit {
    /// First byte in the arena.
    place: usize,
    /// First byte at home of what the place holds, or will hold once `arrived` is over.
    home: Option<usize>,
    /// Recorded behind the copy to the device.
    arrived: CUevent,
    /// Recorded behind the operations that the next copy, in either direction, waits for.
    used: CUevent,
}

/// Memory of this machine and the copies between it and the device.
pub(super) struct Home {
    device: Arc<Device>,
    copies: CUstream,
    base: *mut u8,
    bytes: usize,
    /// What `base` belongs to; nothing if it is pinned memory.
    file: Option<Box<dyn crate::memory::Home>>,
    visits: Vec<Visit>,
}

// SAFETY: memory, stream and events are owned and may be used from any thread with the context current.
unsafe impl Send for Home {}

impl Home {
    /// Takes the memory, pinned unless it is a file's, and makes a stream for copies. The context is current.
    pub(super) fn new(device: &Arc<Device>, memory: HomeMemory) -> Result<Self, BackendError> {
        let null = std::ptr::null_mut();
        let mut home =
            Self { device: device.clone(), copies: null, base: null.cast(), bytes: 0, file: None, visits: Vec::new() };
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current; the stream is written to a field.
        let code = unsafe { (device.driver.cuStreamCreate)(&mut home.copies, flags) };
        device.check("making a stream for copies", code)?;
        match memory {
            HomeMemory::File(file) => {
                let (base, bytes) = file.memory();
                (home.base, home.bytes, home.file) = (base.as_ptr(), bytes, Some(file));
            }
            HomeMemory::Host(bytes) => {
                let mut base = std::ptr::null_mut();
                // SAFETY: the context is current; the address is written to a local.
                let code = unsafe { (device.driver.cuMemHostAlloc)(&mut base, bytes, 0) };
                device.check("taking pinned memory for parameters", code)?;
                (home.base, home.bytes) = (base.cast(), bytes);
                // SAFETY: the driver gave that many bytes, which nothing else refers to yet.
                unsafe { home.base.write_bytes(0, bytes) };
            }
        }
        Ok(home)
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

    /// Changes the bytes of a span with `write`; what was fetched of it before is no longer what is here.
    ///
    /// # Panics
    /// If the span is not inside.
    pub(super) fn write(&mut self, span: Span, write: impl FnOnce(&mut [u8])) -> Code {
        let code = self.wait();
        self.visits.iter_mut().for_each(|visit| visit.home = None);
        // SAFETY: `first` proved the span to lie inside; no copy is under way, and `self` is borrowed alone.
        write(unsafe { std::slice::from_raw_parts_mut(self.first(span), span.bytes) });
        code
    }

    /// See [`crate::backend::Backend::fetch`]; `to` is at `address`.
    pub(super) fn fetch(&mut self, home: Span, to: Span, address: CUdeviceptr) -> Result<Code, BackendError> {
        let at = self.visit(to.offset)?;
        if self.visits[at].home == Some(home.offset) {
            return Ok(0);
        }
        if let Some(file) = &self.file {
            file.will_need(home.offset, home.bytes);
        }
        let from = self.first(home);
        let (driver, used) = (&self.device.driver, self.visits[at].used);
        let code = self.after_operations(used);
        // SAFETY: `first` proved the source to lie inside memory that lives as long as this, the caller the target.
        let code = first_failure(code, || unsafe {
            (driver.cuMemcpyHtoDAsync_v2)(address, from.cast(), home.bytes, self.copies)
        });
        // SAFETY: event and stream belong to the context, which is current.
        let code = first_failure(code, || unsafe { (driver.cuEventRecord)(self.visits[at].arrived, self.copies) });
        self.visits[at].home = Some(home.offset);
        Ok(code)
    }

    /// See [`crate::backend::Backend::arrive`], after [`Home::fetch`].
    pub(super) fn arrive(&mut self, to: Span) -> Result<Code, BackendError> {
        let at = self.visit(to.offset)?;
        let (driver, stream) = (&self.device.driver, self.device.stream);
        // SAFETY: event and stream belong to the context, which is current.
        Ok(unsafe { (driver.cuStreamWaitEvent)(stream, self.visits[at].arrived, 0) })
    }

    /// See [`crate::backend::Backend::leave`]; `from` is at `address`.
    pub(super) fn leave(&mut self, from: Span, home: Span, address: CUdeviceptr) -> Result<Code, BackendError> {
        let at = self.visit(from.offset)?;
        let to = self.first(home);
        let driver = &self.device.driver;
        let code = self.after_operations(self.visits[at].used);
        // SAFETY: `first` proved the target to lie inside memory that lives as long as this, the caller the source.
        Ok(first_failure(code, || unsafe {
            (driver.cuMemcpyDtoHAsync_v2)(to.cast(), address, home.bytes, self.copies)
        }))
    }

    /// See [`crate::backend::Backend::rest`].
    pub(super) fn rest(&self, span: Span) {
        if let Some(file) = &self.file {
            file.leave(span.offset, span.bytes, true);
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

    fn visit(&mut self, place: usize) -> Result<usize, BackendError> {
        if let Some(at) = self.visits.iter().position(|visit| visit.place == place) {
            return Ok(at);
        }
        let (arrived, used) = (self.device.event()?, self.device.event()?);
        self.visits.push(Visit { place, home: None, arrived, used });
        Ok(self.visits.len() - 1)
    }

    fn first(&self, span: Span) -> *mut u8 {
        let end = span.offset.checked_add(span.bytes).expect("a span below usize::MAX");
        assert!(end <= self.bytes, "span {}+{} outside a home of {} bytes", span.offset, span.bytes, self.bytes);
        // SAFETY: the span ends inside the memory, so its start is inside too.
        unsafe { self.base.add(span.offset) }
    }
}

fn first_failure(code: Code, next: impl FnOnce() -> Code) -> Code {
    if code == 0 { next() } else { code }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.device.current();
        let driver = &self.device.driver;
        if !self.copies.is_null() {
            self.wait();
        }
        for visit in &self.visits {
            for event in [visit.arrived, visit.used] {
                // SAFETY: made by `visit`; all that used it is done.
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
