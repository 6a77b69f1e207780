//! Where parameters live that the arena does not hold.

use std::ptr::NonNull;

/// Writable memory beside the arena: [`crate::memory::Place::Home`] spans lie in it.
///
/// # Safety
/// The memory that [`Home::memory`] gives is initialised, stays where it is, is as long as it says and is reached
/// through nothing else for as long as the value lives, whatever else is called on it.
pub unsafe trait Home: Send + Sync {
    /// First byte, aligned to [`crate::memory::ALIGN`], and length.
    fn memory(&self) -> (NonNull<u8>, usize);

    /// These bytes will soon be read.
    fn will_need(&self, offset: usize, bytes: usize);

    /// These bytes will not be touched for a while; `changed` tells whether they were written.
    fn leave(&self, offset: usize, bytes: usize, changed: bool);
}

/// What [`crate::memory::Place::Home`] spans refer to.
pub enum HomeMemory {
    /// Memory of this machine, of so many bytes, zero at first.
    Host(usize),
    /// A file that is mapped for reading and writing, zero at first.
    File(Box<dyn Home>),
}
