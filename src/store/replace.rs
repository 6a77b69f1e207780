//! Atomic replacement: the name holds the old bytes or the new ones, never anything between.

use super::map::kind_of;
use crate::error::{ReplaceError, StoreError};
use fs4::fs_std::FileExt;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the callback of [`replace`] writes to.
pub type Sink = BufWriter<File>;

/// Suffix of the file that a new version is written to.
const PARTIAL: &str = ".partial";

/// Bytes gathered before they go to the system.
const BUFFER: usize = 1 << 20;

/// Puts what `write` writes under the name `path`, atomically: after a crash, a kill or a full disk at any byte, the
/// name holds the previous file, whole, or the new one, whole.
///
/// `len` bytes are reserved first, so a full disk is found before anything is written. The new file is
/// `.NAME.partial` beside the target; it is locked, so of two writers on one path the second is refused. What a killed
/// process leaves there is never read, and is taken over by the next writer of the same path (or see
/// [`remove_stale`]). A symbolic link at `path` is replaced, not followed.
///
/// # Errors
/// Those of the callback, and [`StoreError`] for everything else; the partial file is removed on every way out.
pub fn replace<E, F>(path: impl AsRef<Path>, len: u64, write: F) -> Result<(), ReplaceError<E>>
where
    F: FnOnce(&mut Sink) -> Result<(), E>,
{
    let path = path.as_ref();
    let partial = Partial::create(path)?;
    partial.reserve(len)?;
    let mut out = BufWriter::with_capacity(BUFFER, partial.file.try_clone().map_err(|e| partial.fail("write it", e))?);
    write(&mut out).map_err(ReplaceError::Write)?;
    out.flush().map_err(|e| partial.fail("write it", e))?;
    drop(out);
    partial.publish().map_err(ReplaceError::Store)
}

/// Removes the partial files that killed processes left in `dir`; those of living writers are locked and stay.
/// Returns how many were removed.
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
        let path = entry.path();
        let file = OpenOptions::new().write(true).open(&path).map_err(|e| StoreError::io(&path, "open it", e))?;
        if file.try_lock_exclusive().is_ok_and(|held| held) && is_at(&file, &path) {
            fs::remove_file(&path).map_err(|e| StoreError::io(&path, "remove it", e))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A locked file beside its target, removed unless it is published.
struct Partial {
    file: File,
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
                _ => StoreError::io(target, "create a file beside it", e),
            };
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
                .open(&path)
                .map_err(fail)?;
            if !file.try_lock_exclusive().map_err(fail)? {
                return Err(StoreError::Busy { path: target.into(), holder: "another process or thread".into() });
            }
            // Between the open and the lock the previous holder may have renamed this very file onto the target. It
            // must not be touched then; the next round opens a new one.
            if is_at(&file, &path) {
                file.set_len(0).map_err(fail)?;
                return Ok(Self { file, path, target: target.into(), published: false });
            }
        }
    }

    /// Reserves `len` bytes. Where the file system cannot, the free space it reports decides.
    fn reserve(&self, len: u64) -> Result<(), StoreError> {
        if len == 0 {
            return Ok(());
        }
        let full = || StoreError::NoSpace { path: self.target.clone(), needed: len };
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Err(full()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => match rustix::fs::fstatvfs(&self.file) {
                Ok(fs) if fs.f_bavail.saturating_mul(fs.f_frsize) < len => Err(full()),
                _ => Ok(()),
            },
            Err(e) => Err(self.fail("reserve space for it", e.into())),
        }
    }

    /// Cuts the file to what was written, forces it to the disk, renames it onto the target and forces that too.
    fn publish(mut self) -> Result<(), StoreError> {
        let end = io::Seek::stream_position(&mut &self.file).map_err(|e| self.fail("write it", e))?;
        self.file.set_len(end).map_err(|e| self.fail("write it", e))?;
        self.file.sync_all().map_err(|e| self.fail("force it to the disk", e))?;
        fs::rename(&self.path, &self.target).map_err(|e| self.fail("rename a file onto it", e))?;
        self.published = true;
        let dir = match self.target.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|e| StoreError::io(dir, "force the directory to the disk", e))
    }

    fn fail(&self, action: &'static str, source: io::Error) -> StoreError {
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                let needed = self.file.metadata().map_or(0, |m| m.len());
                StoreError::NoSpace { path: self.target.clone(), needed }
            }
            _ => StoreError::io(&self.target, action, source),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // The lock is still held here, so this cannot remove another writer's file.
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether the open `file` is what `path` names now.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        _ => false,
    }
}
