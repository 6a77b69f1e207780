//! Atomic replacement: the name refers to the old file or to the new one, never to anything in between.

use super::machine::{self, Output};
use super::map::kind_of;
use crate::error::{ReplaceError, StoreError};
use fs4::fs_std::FileExt;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The writer that the callback of [`replace`] gets.
pub type Sink = BufWriter<Output>;

/// Suffix of the file that a new version is written to.
pub(super) const PARTIAL: &str = ".partial";

/// Bytes of the write buffer.
const BUFFER: usize = 1 << 20;

/// Replaces the file at `path` atomically with what `write` writes: after a crash, a kill or a full disk at any byte,
/// `path` is either the complete previous file or the complete new one.
///
/// `len` bytes are reserved first, so a full disk is detected before anything is written. The new file is
/// `.NAME.partial` in the same directory; it is locked, so of two writers of one path the second is refused. A partial
/// file that a killed process left is never read; the next writer of the same path takes it over (see also
/// [`remove_stale`]). A symbolic link at `path` is replaced, not followed.
///
/// # Errors
/// Those of the callback, and [`StoreError`] for everything else; the partial file is removed in every case.
pub fn replace<E, F>(path: impl AsRef<Path>, len: u64, write: F) -> Result<(), ReplaceError<E>>
where
    F: FnOnce(&mut Sink) -> Result<(), E>,
{
    let path = path.as_ref();
    let partial = Partial::create(path)?;
    partial.reserve(len)?;
    let mut out =
        BufWriter::with_capacity(BUFFER, partial.output.try_clone().map_err(|e| partial.fail("write it", e))?);
    write(&mut out).map_err(ReplaceError::Write)?;
    out.flush().map_err(|e| partial.fail("write it", e))?;
    drop(out);
    partial.publish().map_err(ReplaceError::Store)
}

/// Removes the partial files that killed processes left in `dir`; those of running writers are locked and stay.
/// Returns the number of removed files.
///
/// # Errors
/// If the directory cannot be read or a stale file cannot be removed.
pub fn remove_stale(dir: impl AsRef<Path>) -> Result<usize, StoreError> {
    let dir = dir.as_ref();
    let mut removed = 0;
    for entry in fs::read_dir(dir).map_err(|e| StoreError::io(dir, "list it", e))? {
        let entry = entry.map_err(|e| StoreError::io(dir, "list it", e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let regular = entry.file_type().is_ok_and(|t| t.is_file());
        if !(regular && name.starts_with('.') && name.ends_with(PARTIAL)) {
            continue;
        }
        removed += usize::from(remove_if_stale(&entry.path())?);
    }
    Ok(removed)
}

/// Removes a partial file unless its writer lives; whether it did.
pub(super) fn remove_if_stale(path: &Path) -> Result<bool, StoreError> {
    let file = OpenOptions::new().write(true).open(path).map_err(|e| StoreError::io(path, "open it", e))?;
    let stale = file.try_lock_exclusive().is_ok_and(|held| held) && is_at(&file, path);
    if stale {
        machine::remove(path).map_err(|e| StoreError::io(path, "remove it", e))?;
    }
    Ok(stale)
}

/// A locked file in the directory of its target, removed on drop unless it was published.
struct Partial {
    output: Output,
    path: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, StoreError> {
        let name = target.file_name().ok_or_else(|| StoreError::NoName { path: target.into() })?;
        match fs::symlink_metadata(target) {
            Ok(meta) if !meta.is_file() && !meta.is_symlink() => {
                return Err(StoreError::NotAFile { path: target.into(), kind: kind_of(meta.file_type()) });
            }
            _ => {}
        }
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(PARTIAL);
        let path = target.with_file_name(hidden);
        loop {
            let fail = |e: io::Error| match e.kind() {
                io::ErrorKind::NotFound => StoreError::NoDirectory { path: target.into() },
                _ => StoreError::io(target, "create a file next to it", e),
            };
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
            let output = Output::open(&path, &options).map_err(fail)?;
            if !output.file().try_lock_exclusive().map_err(fail)? {
                return Err(StoreError::Busy { path: target.into(), holder: "another process or thread".into() });
            }
            // Between open and lock the previous holder may have renamed this very file onto the target. Then it must
            // not be touched; the next iteration opens a new one.
            if is_at(output.file(), &path) {
                // From here on it is removed if anything goes wrong.
                let mut partial = Self { output, path, target: target.into(), published: false };
                partial.output.set_len(0).map_err(fail)?;
                return Ok(partial);
            }
        }
    }

    /// Reserves `len` bytes. On file systems that cannot, the reported free space must suffice.
    fn reserve(&self, len: u64) -> Result<(), StoreError> {
        if len == 0 {
            return Ok(());
        }
        let full = || StoreError::NoSpace { path: self.target.clone(), needed: len };
        let Err(error) = self.output.reserve(len) else { return Ok(()) };
        match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Err(full()),
            Some(Errno::FBIG) => Err(StoreError::FileLimit { path: self.target.clone(), needed: len }),
            Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => match rustix::fs::fstatvfs(self.output.file()) {
                Ok(fs) if fs.f_bavail.saturating_mul(fs.f_frsize) < len => Err(full()),
                _ => Ok(()),
            },
            _ => Err(self.fail("reserve space for it", error)),
        }
    }

    /// Truncates the file to what was written, syncs it, renames it onto the target and syncs the directory.
    fn publish(mut self) -> Result<(), StoreError> {
        let end = io::Seek::stream_position(&mut self.output.file()).map_err(|e| self.fail("write it", e))?;
        self.output.set_len(end).map_err(|e| self.fail("write it", e))?;
        self.output.sync().map_err(|e| self.fail("sync it", e))?;
        machine::rename(&self.path, &self.target).map_err(|e| self.fail("rename a file onto it", e))?;
        self.published = true;
        machine::sync_folder_of(&self.target).map_err(|e| StoreError::io(&self.target, "sync the directory of it", e))
    }

    fn fail(&self, action: &'static str, source: io::Error) -> StoreError {
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                let needed = self.output.file().metadata().map_or(0, |m| m.len());
                StoreError::NoSpace { path: self.target.clone(), needed }
            }
            Some(Errno::FBIG) => {
                let needed = self.output.file().metadata().map_or(0, |m| m.len());
                StoreError::FileLimit { path: self.target.clone(), needed }
            }
            _ => StoreError::io(&self.target, action, source),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // The lock is still held here, so this cannot remove another writer's file.
        if !self.published {
            let _ = machine::remove(&self.path);
        }
    }
}

/// Whether `path` refers to the open `file`.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        _ => false,
    }
}
