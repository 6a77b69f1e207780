//! What a device does with the contents of its memory: upload, download, zero, copy, and parameters in host memory.

use super::gpu::Gpu;
use super::graphs::Operation;
use super::memory::Staging;
use super::offload::Offloaded;
use super::symbols::Code;
use crate::error::BackendError;
use crate::memory::{HostMemory, Place, Span};

impl Gpu {
    /// Sets all bytes of a span to zero.
    pub fn zero(&mut self, span: Span) {
        if span.place == Place::Host {
            return self.offload("zero", |host| Ok(host.write(span, |bytes| bytes.fill(0))));
        }
        let (to, bytes) = (self.address(span), span.bytes);
        if bytes > 0 {
            // SAFETY: `address` proved the span to lie inside the arena.
            self.queue_up(|queue| unsafe { queue.push(Operation::Zero { to, bytes }) });
        }
    }

    /// `to = from`; both have the same length.
    ///
    /// # Panics
    /// If they differ in length.
    pub fn copy(&mut self, from: Span, to: Span) {
        assert_eq!(from.bytes, to.bytes, "a copy between spans of different lengths");
        let (bytes, from, to) = (from.bytes, self.address(from), self.address(to));
        if bytes > 0 {
            // SAFETY: `address` proved both spans to lie inside the arena.
            self.queue_up(|queue| unsafe { queue.push(Operation::Copy { from, to, bytes }) });
        }
    }

    /// Copies bytes of the host into a span of the same length. They may be changed when this returns.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn upload(&mut self, bytes: &[u8], to: Span) {
        assert_eq!(bytes.len(), to.bytes, "an upload to a span of another length");
        if to.place == Place::Host {
            return self.offload("upload", |host| Ok(host.write(to, |kept| kept.copy_from_slice(bytes))));
        }
        let to = self.address(to);
        self.act("upload", bytes.len(), |_, _| self.staging().upload(bytes, to));
    }

    /// Copies a span into bytes of the host, after all operations submitted before; gives zeros after a failure.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn download(&self, from: Span, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), from.bytes, "a download of a span of another length");
        if from.place != Place::Host {
            return self.download_from(self.address(from), bytes);
        }
        let offloaded = self.offloaded.as_ref().expect("host memory was attached");
        self.downloading(bytes, |bytes| offloaded.read(from, bytes));
    }

    /// The same from an address with that many bytes.
    pub(super) fn download_from(&self, address: u64, bytes: &mut [u8]) {
        self.downloading(bytes, |bytes| self.staging().download(address, bytes));
    }

    fn downloading(&self, bytes: &mut [u8], download: impl FnOnce(&mut [u8]) -> Code) {
        let before = self.last.get();
        self.act("download", bytes.len(), |_, _| download(bytes));
        // A failure that surfaces later is not this download's, which has waited for all operations before it.
        self.last.set(before);
        if self.failure.borrow().is_some() {
            bytes.fill(0);
        }
    }

    /// Gives host spans their memory; after [`Gpu::allocate`].
    ///
    /// # Errors
    /// If the host does not have that much memory that the device can access.
    pub fn attach(&mut self, host: HostMemory) -> Result<(), BackendError> {
        self.device.check("attach", self.device.current())?;
        self.offloaded = Some(Offloaded::new(&self.device, host)?);
        Ok(())
    }

    /// Starts copying `host` to `to`, unless `to` holds it already.
    ///
    /// # Panics
    /// If a span is not inside its memory, or they differ in length.
    pub fn prefetch(&mut self, host: Span, to: Span) {
        let address = self.device_copy(host, to);
        // SAFETY: `device_copy` proved that `to` is at `address`, inside the arena, and as long as `host`.
        self.offload("prefetch", |offloaded| unsafe { offloaded.prefetch(host, to, address) });
    }

    /// Later operations wait for the prefetch of `host` to `to`; starts it if needed.
    ///
    /// # Panics
    /// As [`Gpu::prefetch`].
    pub fn wait(&mut self, host: Span, to: Span) {
        self.prefetch(host, to);
        self.offload("wait", |offloaded| offloaded.wait_for(to));
    }

    /// Copies `from` back to `host` if it was `changed`.
    ///
    /// # Panics
    /// As [`Gpu::prefetch`].
    pub fn write_back(&mut self, from: Span, host: Span, changed: bool) {
        if changed {
            let address = self.device_copy(host, from);
            // SAFETY: `device_copy` proved that `from` is at `address`, inside the arena, and as long as `host`.
            self.offload("write back", |offloaded| unsafe { offloaded.write_back(from, host, address) });
        }
    }

    /// A hint that a host span will not be needed for a while.
    ///
    /// # Panics
    /// If it is not inside its memory.
    pub fn advise_cold(&self, span: Span) {
        if let (Place::Host, Some(offloaded)) = (span.place, &self.offloaded) {
            offloaded.advise_cold(span);
        }
    }

    /// The address of a span of the arena that holds a copy of a host span.
    ///
    /// # Panics
    /// If they are not, or differ in length.
    fn device_copy(&self, host: Span, copy: Span) -> u64 {
        assert!(host.place == Place::Host, "{host:?} is not in host memory");
        assert_eq!(host.bytes, copy.bytes, "a copy of another length");
        self.address(copy)
    }

    fn offload(&mut self, what: &'static str, act: impl FnOnce(&mut Offloaded) -> Result<Code, BackendError>) {
        if !self.begin(what) {
            return;
        }
        match act(self.offloaded.as_mut().expect("host memory was attached")) {
            Ok(code) => self.end(what, code),
            Err(error) => self.remember(error),
        }
    }

    fn staging(&self) -> &Staging {
        self.staging.as_ref().expect("memory was allocated: the span has an address")
    }
}
