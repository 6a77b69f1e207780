//! Host memory for parameters that the arena does not hold.

use std::ptr::NonNull;

/// Writable memory outside of the arena, for [`crate::memory::Place::Host`] spans.
///
/// # Safety
/// The memory that [`HostRegion::memory`] gives is initialised, stays where it is, is as long as it says and is accessed
/// through nothing else for as long as the value lives, whatever else is called on it with whatever arguments.
pub unsafe trait HostRegion: Send + Sync {
    /// First byte, aligned to [`crate::memory::ALIGN`], and length.
    fn memory(&self) -> (NonNull<u8>, usize);

    /// These bytes will soon be read: a hint.
    ///
    /// # Panics
    /// If they are not inside the memory.
    fn prefetch(&self, offset: usize, bytes: usize);

    /// These bytes will not be needed for a while: a hint; `changed` tells whether they were written.
    ///
    /// # Panics
    /// If they are not inside the memory.
    fn advise_cold(&self, offset: usize, bytes: usize, changed: bool);
}

/// What [`crate::memory::Place::Host`] spans refer to.
pub enum HostMemory {
    /// This many bytes of host memory, zero at first.
    Bytes(usize),
    /// A file that is mapped for reading and writing, zero at first.
    File(Box<dyn HostRegion>),
}
