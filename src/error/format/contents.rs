//! Errors in and between the planes.

/// A broken rule of the contents (R33 to R37), as found by verification.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentsError {
    /// A plane's checksum differs.
    #[error("the {kind} plane of {tensor} has checksum {found:016x}, {stated:016x} is stated: it is damaged (R33)")]
    PlaneChecksum {
        /// The tensor's name.
        tensor: String,
        /// The kind of plane.
        kind: String,
        /// Computed.
        found: u64,
        /// Stated.
        stated: u64,
    },
    /// A byte between sections or planes that is not zero.
    #[error("byte {at} is padding and must be 0, it is {found} (R34)")]
    Padding {
        /// Offset in the file.
        at: u64,
        /// Its value.
        found: u8,
    },
    /// A padding element with another value.
    #[error("padding element {index} of the {kind} plane of {tensor} is {found}, it must be {expected} (R35)")]
    PaddingElement {
        /// The tensor's name.
        tensor: String,
        /// The kind of plane.
        kind: String,
        /// Index of the element in the padded plane.
        index: u64,
        /// Its value.
        found: i16,
        /// The value that is right.
        expected: i16,
    },
    /// A code outside its range.
    #[error("element {index} of the {kind} plane of {tensor} is {found}, allowed are {allowed} (R36)")]
    Code {
        /// The tensor's name.
        tensor: String,
        /// The kind of plane.
        kind: String,
        /// Index of the element in the padded plane.
        index: u64,
        /// Its value.
        found: i16,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A scale, offset or value that is not finite, or negative where that cannot be.
    #[error("element {index} of the {kind} plane of {tensor} is {found}, it must be {allowed} (R37)")]
    Value {
        /// The tensor's name.
        tensor: String,
        /// The kind of plane.
        kind: String,
        /// Index of the element.
        index: u64,
        /// Its value.
        found: f32,
        /// What is allowed.
        allowed: &'static str,
    },
}
