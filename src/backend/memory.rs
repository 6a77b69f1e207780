//! The memory of a backend, and parameters that are offloaded from it.

use crate::error::BackendError;
use crate::memory::{HostMemory, MappedFile, Span};

/// The arena of a backend.
pub trait Memory {
    /// Takes all memory that this backend will use: an arena of `bytes` zero bytes that holds all further spans,
    /// and the file that [`crate::memory::Place::Mapped`] spans refer to. `workspace` is as large as
    /// [`super::DeviceInfo::workspace_bytes`] asked for. Nothing is allocated afterwards.
    ///
    /// # Errors
    /// If the device does not have that much.
    fn allocate(&mut self, bytes: usize, mapped: Option<MappedFile>, workspace: Span) -> Result<(), BackendError>;

    /// Whether all operations so far were carried out. After a failure, downloads give zeros.
    ///
    /// # Errors
    /// The first failure of the device.
    fn status(&self) -> Result<(), BackendError>;

    /// Copies bytes of the host into a span of the same length.
    fn upload(&mut self, bytes: &[u8], to: Span);

    /// Copies a span into as many bytes of the host.
    fn download(&self, from: Span, bytes: &mut [u8]);

    /// Sets all bytes of a span to zero.
    fn zero(&mut self, span: Span);

    /// `to = from`; both have the same length.
    fn copy(&mut self, from: Span, to: Span);
}

/// Parameters and state in host memory, copied to the device while they are used.
pub trait Offload {
    /// Gives [`crate::memory::Place::Host`] spans their memory; after [`Memory::allocate`].
    ///
    /// # Errors
    /// If the host does not have that much, or the device cannot reach it.
    fn attach(&mut self, host: HostMemory) -> Result<(), BackendError>;

    /// Starts copying `host` to `to`, unless `to` holds it already. Where operations work on host memory in place, both
    /// are the same span and this is a hint.
    fn prefetch(&mut self, host: Span, to: Span);

    /// Later operations wait for the prefetch of `host` to `to`; starts it if needed.
    fn wait(&mut self, host: Span, to: Span);

    /// Ends the use of the device copy `from` for a while; copies it back to `host` if `changed`.
    fn write_back(&mut self, from: Span, host: Span, changed: bool);

    /// A span that was uploaded or downloaded will not be needed for a while: a hint that matters where it lies in a file.
    fn advise_cold(&self, span: Span);
}
