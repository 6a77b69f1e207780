//! Advisory locks: one writer per run directory.

use super::machine::Output;
use crate::error::StoreError;
use fs4::fs_std::FileExt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

/// An exclusive lock, held until it is dropped or the process ends in any way.
#[derive(Debug)]
pub struct Lock {
    _file: Output,
}

impl Lock {
    /// Locks `path`, a file that exists only for this lock. It contains the holder's process id and is never removed.
    ///
    /// # Errors
    /// [`StoreError::Busy`] without waiting if another process holds it; otherwise the error of the system.
    pub fn acquire(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let fail = |e| StoreError::io(path, "lock it", e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = Output::open(path, &options).map_err(fail)?;
        if !file.file().try_lock_exclusive().map_err(fail)? {
            return Err(StoreError::Busy { path: path.into(), holder: holder(file.file()) });
        }
        file.set_len(0).map_err(fail)?;
        writeln!(file, "{}", std::process::id()).map_err(fail)?;
        Ok(Self { _file: file })
    }

    /// Whether somebody holds `path` now; nobody does if it does not exist or cannot be opened.
    pub fn is_held(path: impl AsRef<Path>) -> bool {
        // Closing the file at the end gives back what was locked to ask.
        File::open(path).is_ok_and(|file| matches!(FileExt::try_lock_shared(&file), Ok(false)))
    }
}

/// The holder according to the lock file; used in the message only.
fn holder(file: &File) -> String {
    let mut text = String::new();
    let _ = file.take(20).read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) => format!("process {pid}"),
        Err(_) => "another process".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let lock = Lock::acquire(&path).unwrap();
        let message = Lock::acquire(&path).unwrap_err().to_string();
        assert!(message.contains(&format!("process {} is writing here", std::process::id())), "{message}");
        assert!(Lock::is_held(&path) && !Lock::is_held(dir.path().join("none")));
        drop(lock);
        assert!(!Lock::is_held(&path));
        Lock::acquire(&path).unwrap();
    }
}
