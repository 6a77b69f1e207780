//! The two things this room asks of the operating system: a file as bytes, and a file replaced as a whole.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Deref;
use std::path::Path;

/// A read-only map of a file.
#[derive(Debug)]
pub(super) struct Map(memmap2::Mmap);

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps the file at `path`.
#[allow(unsafe_code)]
pub(super) fn map(path: &Path) -> io::Result<Map> {
    let file = File::open(path)?;
    // SAFETY: shards are never written in place: `replace` renames a finished file over the name, and a map keeps
    // the file it was made of. Only a foreign program that rewrites the cache could change the bytes under it.
    Ok(Map(unsafe { memmap2::Mmap::map(&file)? }))
}

/// Writes a file beside `path` and renames it there when `write` is done and the bytes are on disk. Whoever reads
/// `path` meanwhile sees the old file or none; of two writers at once the later wins.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
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
