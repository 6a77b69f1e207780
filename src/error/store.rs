//! Errors of the file system.

use std::io;
use std::path::PathBuf;

/// A failure of the file system; every message names the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing there.
    #[error("{path}: no such file", path = show(path))]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The directory of a file that is to be written does not exist.
    #[error("{path}: its directory does not exist", path = show(path))]
    NoDirectory {
        /// The path.
        path: PathBuf,
    },
    /// No permission.
    #[error("{path}: permission denied; check the owner and mode of the file and its directory", path = show(path))]
    Denied {
        /// The path.
        path: PathBuf,
    },
    /// Not a regular file.
    #[error("{path}: is a {kind}, a regular file is needed", path = show(path))]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// No bytes.
    #[error("{path}: the file is empty (0 bytes)", path = show(path))]
    Empty {
        /// The path.
        path: PathBuf,
    },
    /// Longer than the address space.
    #[error("{path}: {len} bytes cannot be mapped on this machine", path = show(path))]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// Another process or thread is writing to the path.
    #[error("{path}: {holder} is writing here; wait for it or stop it", path = show(path))]
    Busy {
        /// The path.
        path: PathBuf,
        /// Who, as far as is known.
        holder: String,
    },
    /// Not enough disk space; detected before anything was written.
    #[error("{path}: not enough disk space for {needed} bytes; nothing was changed", path = show(path))]
    NoSpace {
        /// The path.
        path: PathBuf,
        /// Bytes that were to be reserved.
        needed: u64,
    },
    /// Larger than a file may be.
    #[error(
        "{path}: {needed} bytes are too large for a file here: the process (`ulimit -f`) or the file system limits their \
         size; nothing was changed",
        path = show(path)
    )]
    FileLimit {
        /// The path.
        path: PathBuf,
        /// Bytes that were to be reserved or written.
        needed: u64,
    },
    /// Not enough disk space for a run's scratch file.
    #[error(
        "{path}: not enough disk space for a scratch file of {needed} bytes",
        path = show(path)
    )]
    NoRoomToWork {
        /// The folder.
        path: PathBuf,
        /// Bytes of the scratch file.
        needed: u64,
    },
    /// A path without a file name.
    #[error("{path}: is not the path of a file", path = show(path))]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// Any other error of the system.
    #[error("{path}: cannot {action}: {source}", path = show(path))]
    Io {
        /// The path.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// Why a file was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError<E> {
    /// The file system refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The callback failed; the error is its own.
    #[error("{0}")]
    Write(E),
}

impl StoreError {
    /// The error for `source`, met while `action` was attempted on `path`.
    pub fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path },
            io::ErrorKind::PermissionDenied => Self::Denied { path },
            _ => Self::Io { path, action, source },
        }
    }
}

/// A path with control characters escaped: it may come from an untrusted source.
fn show(path: &std::path::Path) -> String {
    let mut shown = String::new();
    for c in path.to_string_lossy().chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}
