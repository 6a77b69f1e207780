//! Atomic replacement: the name refers to the old file or to the new one, never to anything in between.

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

/// The writer that the callback of [`replace`] gets.
pub type Sink = BufWriter<File>;

/// Suffix of the file that a new version is written to.
const PARTIAL: &str = ".partial";

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
    let mut out = BufWriter::with_capacity(BUFFER, partial.file.try_clone().map_err(|e| partial.fail("write it", e))?);
    write(&mut out).map_err(ReplaceError::Write)?;
    out.flush().map_err(|e| partial.fail("write it", e))?;
    note(Step::Write);
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
        let path = entry.path();
        let file = OpenOptions::new().write(true).open(&path).map_err(|e| StoreError::io(&path, "open it", e))?;
        if file.try_lock_exclusive().is_ok_and(|held| held) && is_at(&file, &path) {
            fs::remove_file(&path).map_err(|e| StoreError::io(&path, "remove it", e))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// What [`replace`] asks of the disk, in this order: tests enumerate what a crash may leave of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Write,
    SetLen,
    Sync,
    Rename,
    SyncFolder,
}

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::RefCell<Vec<Step>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Keeps a step that was done, in tests.
fn note(step: Step) {
    #[cfg(test)]
    STEPS.with_borrow_mut(|steps| steps.push(step));
    #[cfg(not(test))]
    let _ = step;
}

/// A locked file in the directory of its target, removed on drop unless it was published.
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
                _ => StoreError::io(target, "create a file next to it", e),
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
            // Between open and lock the previous holder may have renamed this very file onto the target. Then it must
            // not be touched; the next iteration opens a new one.
            if is_at(&file, &path) {
                file.set_len(0).map_err(fail)?;
                return Ok(Self { file, path, target: target.into(), published: false });
            }
        }
    }

    /// Reserves `len` bytes. On file systems that cannot, the reported free space must suffice.
    fn reserve(&self, len: u64) -> Result<(), StoreError> {
        if len == 0 {
            return Ok(());
        }
        let full = || StoreError::NoSpace { path: self.target.clone(), needed: len };
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) => Err(full()),
            Err(Errno::FBIG) => Err(StoreError::FileLimit { path: self.target.clone(), needed: len }),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => match rustix::fs::fstatvfs(&self.file) {
                Ok(fs) if fs.f_bavail.saturating_mul(fs.f_frsize) < len => Err(full()),
                _ => Ok(()),
            },
            Err(e) => Err(self.fail("reserve space for it", e.into())),
        }
    }

    /// Truncates the file to what was written, syncs it, renames it onto the target and syncs the directory.
    fn publish(mut self) -> Result<(), StoreError> {
        let end = io::Seek::stream_position(&mut &self.file).map_err(|e| self.fail("write it", e))?;
        self.file.set_len(end).map_err(|e| self.fail("write it", e))?;
        note(Step::SetLen);
        self.file.sync_all().map_err(|e| self.fail("sync it", e))?;
        note(Step::Sync);
        fs::rename(&self.path, &self.target).map_err(|e| self.fail("rename a file onto it", e))?;
        note(Step::Rename);
        self.published = true;
        let dir = match self.target.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        note(Step::SyncFolder);
        synced.map_err(|e| StoreError::io(dir, "sync the directory", e))
    }

    fn fail(&self, action: &'static str, source: io::Error) -> StoreError {
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                let needed = self.file.metadata().map_or(0, |m| m.len());
                StoreError::NoSpace { path: self.target.clone(), needed }
            }
            Some(Errno::FBIG) => {
                let needed = self.file.metadata().map_or(0, |m| m.len());
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
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether `path` refers to the open `file`.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What a file system keeps at once, in bytes: small, so that all combinations can be tried.
    const BLOCK: usize = 4;

    /// What the name may refer to after a crash, whatever the system wrote back in whatever order: every prefix of `steps`,
    /// of which everything since the last sync may be on the disk or not, block by block. Beside it, whether all steps
    /// were done.
    fn images(steps: &[Step], old: &[u8], new: &[u8], reserved: usize) -> BTreeSet<(Vec<u8>, bool)> {
        let mut found = BTreeSet::new();
        for done in 0..=steps.len() {
            let done_steps = &steps[..done];
            let has = |step| done_steps.contains(&step);
            let before = |a, b| done_steps.iter().position(|s| *s == a) < done_steps.iter().position(|s| *s == b);
            // The name: a rename that was not synced may have reached the disk or not.
            let may_be_old = !(has(Step::Rename) && has(Step::SyncFolder) && before(Step::Rename, Step::SyncFolder));
            let all = done == steps.len();
            if may_be_old {
                found.insert((old.to_vec(), all));
            }
            if has(Step::Rename) {
                let durable = has(Step::Sync) && before(Step::Write, Step::Sync) && before(Step::SetLen, Step::Sync);
                if durable {
                    found.insert((new.to_vec(), all));
                    continue;
                }
                // The reserved bytes are zeros; any of the blocks may have been written, and the end may be either.
                let blocks = new.len().div_ceil(BLOCK);
                for subset in 0..1u32 << blocks {
                    let mut bytes = vec![0; reserved];
                    for block in (0..blocks).filter(|block| subset >> block & 1 == 1) {
                        let range = block * BLOCK..((block + 1) * BLOCK).min(new.len());
                        bytes[range.clone()].copy_from_slice(&new[range]);
                    }
                    for len in [0, new.len(), reserved] {
                        found.insert((bytes[..len].to_vec(), all));
                    }
                }
            }
        }
        found
    }

    /// The steps that a real replacement took.
    fn steps(old: &[u8], new: &[u8], reserved: usize) -> Vec<Step> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, old).unwrap();
        STEPS.take();
        replace(&path, reserved as u64, |out| out.write_all(new)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), new);
        STEPS.take()
    }

    #[test]
    fn whatever_a_crash_leaves_is_the_old_file_or_the_new_one() {
        let (old, new, reserved) = (b"the old one".as_slice(), b"and this is the new one".as_slice(), 32);
        let taken = steps(old, new, reserved);
        let left = images(&taken, old, new, reserved);
        assert!(left.iter().all(|(bytes, _)| bytes == old || bytes == new), "{left:?}");
        // Once the call has returned, only the new one.
        assert!(left.iter().all(|(bytes, returned)| !returned || bytes == new), "{left:?}");
        assert!(left.len() >= 3, "before, amid and after: {left:?}");
    }

    #[test]
    fn the_enumeration_finds_what_each_sync_is_for() {
        let (old, new, reserved) = (b"the old one".as_slice(), b"and this is the new one".as_slice(), 32);
        let taken = steps(old, new, reserved);
        let without = |step| taken.iter().copied().filter(|other| *other != step).collect::<Vec<_>>();
        let torn = images(&without(Step::Sync), old, new, reserved);
        assert!(torn.iter().any(|(bytes, _)| bytes != old && bytes != new), "files in two halves");
        let forgotten = images(&without(Step::SyncFolder), old, new, reserved);
        assert!(forgotten.iter().any(|(bytes, returned)| *returned && bytes == old), "a save that is undone");
    }
}
