//! Files that can be made again: caches.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::NamedTempFile;

/// Writes a temporary file next to `path` and renames it to `path` once `write` has returned and the bytes are on disk.
/// Until then readers of `path` see the old file or none. Unlike [`super::replace`] it allows several concurrent writers,
/// each with its own temporary file; the last one wins.
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

/// A temporary file that gets its name once it is complete, and is removed if it never is.
#[derive(Debug)]
pub struct Draft {
    buffered: BufWriter<NamedTempFile>,
}

impl Draft {
    /// An empty one in the folder of `path`, which is made where it is missing.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        // The mode of any new file: 0666 less the umask. The default of temporary files would hide it from other users.
        let everyone = std::fs::Permissions::from_mode(0o666);
        let temporary = tempfile::Builder::new().permissions(everyone).tempfile_in(folder)?;
        Ok(Self { buffered: BufWriter::with_capacity(1 << 20, temporary) })
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
        let name = Self::create(path)?.buffered.into_inner().map_err(io::IntoInnerError::into_error)?.into_temp_path();
        match std::fs::rename(path, &name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let file = OpenOptions::new().read(true).write(true).open(&name)?;
        Ok(Some(Self { buffered: BufWriter::with_capacity(1 << 20, NamedTempFile::from_parts(file, name)) }))
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
        let file = self.buffered.get_mut().as_file_mut();
        file.set_len(len)?;
        file.seek(SeekFrom::Start(len)).map(drop)
    }

    /// Gives it the name `path` once its bytes are on disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn publish(self, path: &Path) -> io::Result<()> {
        let temporary = self.buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
        Ok(())
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
    use std::fs;

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
}
