//! Files that anyone may make again: caches.

use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes a file beside `path` and renames it there when `write` is done and the bytes are on disk. Whoever reads
/// `path` meanwhile sees the old file or none. Unlike [`super::replace`] it lets several writers work at once, each
/// on a temporary file of its own; the last one wins.
///
/// # Errors
/// Those of `write` and of the file system.
pub fn publish(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let temporary = tempfile::NamedTempFile::new_in(folder)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, temporary);
    write(&mut buffered)?;
    let temporary = buffered.into_inner().map_err(|error| error.into_error())?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(())
}
