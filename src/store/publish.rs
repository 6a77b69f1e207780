//! Files that can be made again: caches.

use super::machine::{self, Output};
use super::replace::{PARTIAL, is_at, remove_if_stale};
use fs4::fs_std::FileExt;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a temporary file next to `path` and renames it to `path` once `write` has returned and the bytes are on disk.
/// Until then readers of `path` see the old file or none; the name is on disk, too, when it returns. Unlike
/// [`super::replace`] it allows several concurrent writers, each with its own temporary file; the last one wins.
///
/// # Errors
/// Those of `write` and of the file system.
pub fn publish(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut draft = Draft::create(path)?;
    write(&mut draft)?;
    draft.publish(path)
}

/// Whether two paths name one file that exists: what is read must not be what is written.
pub fn same_file(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(a).is_some_and(|a| real(b) == Some(a))
}

/// A temporary file that gets its name once it is complete, and is removed if it never is. It is locked while it is
/// written, so that those of killed processes can be told from others: who writes a file of the same name removes them.
#[derive(Debug)]
pub struct Draft {
    buffered: BufWriter<Output>,
    name: TemporaryName,
}

/// A name that is gone when this is dropped, unless something else has happened to it.
#[derive(Debug)]
struct TemporaryName(Option<PathBuf>);

impl Drop for TemporaryName {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = machine::remove(path);
        }
    }
}

impl Draft {
    /// An empty one in the folder of `path`, which is made where it is missing.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> io::Result<Self> {
        let folder = machine::folder_of(path);
        machine::create_folder(folder)?;
        let prefix = format!(".{}.", path.file_stem().unwrap_or_default().to_string_lossy());
        remove_stale(folder, &prefix);
        loop {
            let mut builder = tempfile::Builder::new();
            // Made as any new file, with its mode; that of temporary files would hide it from other users.
            let made = builder.prefix(&prefix).suffix(PARTIAL).make_in(folder, Output::create_new)?;
            let (output, name) = made.into_parts();
            let name = TemporaryName(Some(name.keep().map_err(|error| error.error)?));
            // Before it was locked, another process may have taken it for one of a killed process.
            if output.file().try_lock_exclusive()? && is_at(output.file(), output.path()) {
                return Ok(Self { buffered: BufWriter::with_capacity(1 << 20, output), name });
            }
        }
    }

    /// Takes over the file at `path`, whose name is free from then on; nothing if there is none. Of several that try, one
    /// gets it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let Self { name, .. } = Self::create(path)?;
        let taken = name.0.as_deref().expect("a draft has a name");
        match machine::rename(path, taken) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let output = Output::open(taken, OpenOptions::new().read(true).write(true))?;
        output.file().try_lock_exclusive()?;
        Ok(Some(Self { buffered: BufWriter::with_capacity(1 << 20, output), name }))
    }

    /// Where it lies for now.
    pub fn path(&self) -> &Path {
        self.buffered.get_ref().path()
    }

    /// Cuts it to its first `len` bytes, behind which it is written from then on.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.buffered.flush()?;
        self.buffered.get_mut().set_len(len)
    }

    /// Gives it the name `path` once its bytes are on disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn publish(mut self, path: &Path) -> io::Result<()> {
        self.buffered.flush()?;
        let output = self.buffered.get_ref();
        output.sync()?;
        machine::rename(output.path(), path)?;
        self.name.0 = None;
        machine::sync_folder_of(path)
    }
}

/// Removes what killed processes left of files whose drafts have this prefix. What cannot be removed does not matter.
fn remove_stale(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let draft = name.starts_with(prefix) && name.ends_with(PARTIAL) && name.len() > prefix.len() + PARTIAL.len();
        if draft && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = remove_if_stale(&entry.path());
        }
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffered.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffered.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_published_file_is_as_readable_as_any_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, published) = (dir.path().join("plain"), dir.path().join("new/published"));
        fs::write(&plain, "x").unwrap();
        publish(&published, |out| out.write_all(b"y")).unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&plain), mode(&published));
    }

    #[test]
    fn a_failed_writer_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        publish(&path, |out| out.write_all(b"old")).unwrap();
        publish(&path, |out| out.write_all(b"new").and(Err(io::Error::other("full")))).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_taken_over_is_gone_until_it_is_published_again() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, whole) = (dir.path().join("kept"), dir.path().join("whole"));
        fs::write(&kept, b"abcdef").unwrap();
        let mut draft = Draft::take(&kept).unwrap().unwrap();
        assert!(Draft::take(&kept).unwrap().is_none() && !kept.exists());
        draft.truncate(3).unwrap();
        draft.write_all(b"xyz").unwrap();
        draft.publish(&whole).unwrap();
        assert_eq!(fs::read(&whole).unwrap(), b"abcxyz");
        fs::rename(&whole, &kept).unwrap();
        drop(Draft::take(&kept).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays of a draft that is dropped");
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_by_the_next_one_of_that_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.tokens");
        for name in [".cache.x.partial", ".other.x.partial", ".cache.partial"] {
            fs::write(dir.path().join(name), b"torn").unwrap();
        }
        let lives = Draft::create(&path).unwrap();
        publish(&path, |out| out.write_all(b"new")).unwrap();
        assert!(lives.path().exists(), "its writer lives");
        drop(lives);
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".cache.partial", ".other.x.partial", "cache.tokens"]);
    }
}
