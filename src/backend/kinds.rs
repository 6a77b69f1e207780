//! How moments are stored.

use serde::{Deserialize, Serialize};

/// How the first moment is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// float32.
    F32,
    /// One byte per element, one scale per group.
    Int8,
    /// One nibble per element, one scale per group.
    Int4,
}

/// How the second moment is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecondMoment {
    /// float32.
    F32,
    /// One byte per element for its root, one scale per group.
    Int8,
    /// One nibble per element for its root, one scale per group.
    Int4,
    /// One float32 per row of a matrix, as in Adam-mini: the mean over the row. Vectors keep float32.
    Row,
    /// One float32 per row and one per column of a matrix, as in Adafactor. Vectors keep float32.
    Factored,
}

impl SecondMoment {
    /// How each element is stored; nothing if only means are.
    pub fn per_element(self) -> Option<Moment> {
        match self {
            Self::F32 => Some(Moment::F32),
            Self::Int8 => Some(Moment::Int8),
            Self::Int4 => Some(Moment::Int4),
            Self::Row | Self::Factored => None,
        }
    }
}
