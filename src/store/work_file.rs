//! The scratch file of a run whose parameters are offloaded to disk.

use super::machine::{Operation, ask};
use crate::error::StoreError;
use crate::memory::HostRegion;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;
use std::ptr::NonNull;

/// An unlinked file, mapped for reading and writing. It disappears when the process ends in any way, and is never used as
/// a checkpoint, since it may hold half a step.
pub struct WorkFile {
    file: File,
    base: NonNull<u8>,
    map: memmap2::MmapMut,
}

// SAFETY: the map is owned, and its bytes are reached through `memory` alone.
unsafe impl Send for WorkFile {}
// SAFETY: as above; advice is a call to the system, from any thread.
unsafe impl Sync for WorkFile {}

impl WorkFile {
    /// Creates a file of `bytes` zero bytes in `folder`. The bytes are reserved on disk, because a write to a mapped page
    /// that has no room on the disk kills the process. File systems that cannot reserve are trusted to have the space.
    ///
    /// # Errors
    /// If the file cannot be created, or the disk has too little space.
    pub fn create(folder: &Path, bytes: usize) -> Result<Self, StoreError> {
        let what = "create a scratch file in it";
        let made = || {
            ask(Operation::Scratch { folder, len: bytes as u64 })?;
            let file = tempfile::tempfile_in(folder)?;
            match fallocate(&file, FallocateFlags::empty(), 0, bytes as u64) {
                // Some file systems cannot reserve; then only the length is set.
                Err(Errno::OPNOTSUPP) => file.set_len(bytes as u64)?,
                done => done?,
            }
            Ok(file)
        };
        let file = made().map_err(|e: io::Error| match Errno::from_io_error(&e) {
            Some(Errno::NOSPC | Errno::FBIG | Errno::DQUOT) => {
                StoreError::NoRoomToWork { path: folder.into(), needed: bytes as u64 }
            }
            _ => StoreError::io(folder, what, e),
        })?;
        // SAFETY: the file has no name, so no other program opens it, and nothing of ours truncates it or maps it a
        // second time.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.map_err(|e| StoreError::io(folder, what, e))?;
        let base = NonNull::new(map.as_mut_ptr()).expect("a map has an address");
        Ok(Self { file, base, map })
    }

    fn assert_inside(&self, offset: usize, bytes: usize) {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.map.len());
        assert!(inside, "bytes {offset}+{bytes} of a scratch file of {} bytes", self.map.len());
    }
}

// SAFETY: a map starts at a page, stays where it is until it is dropped, and its bytes are a file's, which is as long as
// the map; `map` itself is used for advice only.
unsafe impl HostRegion for WorkFile {
    fn memory(&self) -> (NonNull<u8>, usize) {
        (self.base, self.map.len())
    }

    fn prefetch(&self, offset: usize, bytes: usize) {
        self.assert_inside(offset, bytes);
        // If the advice is refused, only time is lost.
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, offset, bytes);
    }

    fn advise_cold(&self, offset: usize, bytes: usize, changed: bool) {
        self.assert_inside(offset, bytes);
        if changed {
            start_writing(&self.file, offset, bytes);
        }
        // SAFETY: the range lies inside the map (advice about other pages could drop what they hold). Of a shared map of a
        // file this drops pages from the process only: what was written stays in the file.
        let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, bytes) };
    }
}

/// Starts writing dirty pages to disk, so that they can be evicted when memory is short.
#[cfg(target_os = "linux")]
fn start_writing(file: &File, offset: usize, bytes: usize) {
    let _ =
        rustix::fs::fadvise(file, offset as u64, std::num::NonZeroU64::new(bytes as u64), rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn start_writing(_: &File, _: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, Place, Span};

    #[test]
    fn what_was_written_is_read_again_after_it_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut arena = Arena::new(64);
        arena.attach(Box::new(WorkFile::create(folder.path(), 1 << 20).unwrap()));
        let span = |offset, bytes| Span { place: Place::Host, offset, bytes };
        assert!(arena.read::<u8>(span(0, 1 << 20)).iter().all(|&byte| byte == 0));
        arena.borrow_slices().write::<u8>(span(5000, 100_000)).fill(7);
        let host = arena.host().unwrap();
        host.advise_cold(4096, 200_000, true);
        host.prefetch(0, 1 << 20);
        let sum: u64 = arena.read::<u8>(span(0, 1 << 20)).iter().map(|&byte| u64::from(byte)).sum();
        assert_eq!(sum, 700_000);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    }

    /// Advice about pages of the heap would zero them.
    #[test]
    #[should_panic(expected = "of a scratch file of 4096 bytes")]
    fn advice_beyond_the_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        WorkFile::create(folder.path(), 4096).unwrap().advise_cold(4096, 1, false);
    }

    #[test]
    fn a_disk_that_is_too_small_is_found_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        // More than any file system holds.
        match WorkFile::create(folder.path(), 1 << 55) {
            Err(error) => assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}"),
            Ok(_) => eprintln!("SKIPPED: this file system promises anything"),
        }
    }
}
