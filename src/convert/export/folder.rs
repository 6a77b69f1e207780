//! A directory that files are written to, all of them or none.

use super::put;
use crate::error::{ConvertError, StoreError};
use crate::store::{Sink, create_folder, remove, remove_folder};
use std::io::Write;
use std::path::Path;

/// A directory that something is written to. What was written is removed again unless all of it was.
pub struct Folder<'a> {
    dir: &'a Path,
    /// Whether it was made for this.
    made: bool,
    /// Names of the files that were written, and whether another was there.
    written: Vec<(String, bool)>,
    /// Whether a file of this name belongs to what was there before.
    stale: fn(&str) -> bool,
    finished: bool,
}

impl<'a> Folder<'a> {
    /// Opens a directory, or makes it; in the end files of names that are `stale` are removed from it.
    pub fn open(dir: &'a Path, stale: fn(&str) -> bool) -> Result<Self, ConvertError> {
        let made = !dir.exists();
        create_folder(dir).map_err(|e| StoreError::io(dir, "make the directory", e))?;
        Ok(Self { dir, made, written: Vec::new(), stale, finished: false })
    }

    /// Writes a file of `len` bytes.
    pub fn put(
        &mut self,
        name: &str,
        len: u64,
        write: impl FnOnce(&mut Sink) -> std::io::Result<()>,
    ) -> Result<(), ConvertError> {
        let path = self.dir.join(name);
        let replaced = path.exists();
        // A file may be in its place although not all went well.
        self.written.push((name.into(), replaced));
        put(&path, len, write)
    }

    /// Writes a small file.
    pub fn small(&mut self, name: &str, bytes: &[u8]) -> Result<(), ConvertError> {
        self.put(name, bytes.len() as u64, |out| out.write_all(bytes))
    }

    /// Removes what is left of what was there before.
    pub fn finish(mut self) -> Result<(), ConvertError> {
        self.finished = true;
        let names = std::fs::read_dir(self.dir).map_err(|e| StoreError::io(self.dir, "list it", e))?;
        for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if (self.stale)(&name) && !self.written.iter().any(|(new, _)| *new == name) {
                let path = self.dir.join(&name);
                remove(&path).map_err(|e| StoreError::io(&path, "remove it", e))?;
            }
        }
        Ok(())
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for (name, _) in self.written.iter().filter(|(_, replaced)| !replaced) {
            let _ = remove(&self.dir.join(name));
        }
        if self.made {
            // Only if it is empty, which it is unless someone else has put a file there.
            let _ = remove_folder(self.dir);
        }
    }
}
