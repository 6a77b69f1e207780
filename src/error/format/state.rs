//! Errors in the list of state tensors that a file names.

/// A broken rule of the metadata's member `state` (R42 to R44).
///
/// Text from a file is escaped before it enters a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The member is no object.
    #[error("the metadata's state is {found}, it must be an object with the names of tensors as members (R42)")]
    NoObject {
        /// The value, escaped.
        found: String,
    },
    /// State of a tensor that is not there.
    #[error("the metadata describes state of {name}, but no tensor has this name (R42)")]
    NoTensor {
        /// The name, quoted and escaped.
        name: String,
    },
    /// A list that is none, is empty, or is too long.
    #[error("the metadata's state of {tensor} is {found}, it must be a list of 1 to {max} objects (R42)")]
    NoList {
        /// The tensor's name.
        tensor: String,
        /// A value, escaped, or the number of its entries.
        found: String,
        /// The cap.
        max: usize,
    },
    /// An entry with a member that is absent, surplus or impossible.
    #[error("entry {entry} of the state of {tensor}: {member} is {found}, it must be {allowed} (R42)")]
    Member {
        /// The tensor's name.
        tensor: String,
        /// Number of the entry.
        entry: usize,
        /// The member, escaped.
        member: String,
        /// Its value, escaped.
        found: String,
        /// What is allowed.
        allowed: String,
    },
    /// Too many elements.
    #[error("entry {entry} of the state of {tensor} has more than {max} elements, padding included (R42)")]
    Elements {
        /// The tensor's name.
        tensor: String,
        /// Number of the entry.
        entry: usize,
        /// The cap.
        max: u64,
    },
    /// Two planes of one name.
    #[error("{tensor} has two planes named {name} (R43)")]
    NameTwice {
        /// The tensor's name.
        tensor: String,
        /// The name (already checked, so free of control characters).
        name: String,
    },
    /// A plane of state that no entry describes.
    #[error("plane {plane} is {kind} of {tensor}, but the metadata describes {entries} such state tensors of it (R44)")]
    NoEntry {
        /// Index of the record.
        plane: usize,
        /// The tensor's name.
        tensor: String,
        /// The kind of plane.
        kind: String,
        /// Entries of the tensor's list.
        entries: usize,
    },
}
