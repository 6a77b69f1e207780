//! Files that can be made again: caches.

use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes a temporary file next to `path` and renames it to `path` once `write` has returned and the bytes are on disk.
/// Until then readers of `path` see the old file or none. Unlike [`super::replace`] it allows several concurrent writers,
/// each with its own temporary file; the last one wins.
///
/// # Errors
/// Those of `write` and of the file system.
pub fn publish(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    // The mode of any new file: 0666 less the umask. The default of temporary files would hide it from other users.
    let everyone = std::fs::Permissions::from_mode(0o666);
    let temporary = tempfile::Builder::new().permissions(everyone).tempfile_in(folder)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, temporary);
    write(&mut buffered)?;
    let temporary = buffered.into_inner().map_err(|error| error.into_error())?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(())
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
}
