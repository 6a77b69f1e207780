//! Errors of writing a file.

use std::io;

/// A failure of the output, or of the source of the planes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The source sent another number of bytes than the plane has.
    #[error("the {kind} plane of {tensor} was given with {found} bytes, {expected} were planned")]
    SourceLen {
        /// The tensor's name.
        tensor: String,
        /// The kind of plane.
        kind: String,
        /// Bytes given.
        found: u64,
        /// Bytes planned.
        expected: u64,
    },
    /// The state changed while it was written.
    #[error("the {kind} plane of {tensor} changed while it was written")]
    SourceChanged {
        /// The tensor's name.
        tensor: String,
        /// The kind of plane.
        kind: String,
    },
    /// The output or the source failed.
    #[error("the file cannot be written: {0}")]
    Io(#[from] io::Error),
}
