//! Adapters: small trained tensors beside the frozen weights of a base model.
//!
//! [`AdapterConfig`] is `[adapter]`; [`LowRankSite`] is a matrix that a low-rank adapter stands beside. The tensors of any
//! adapter are one list, in the order of its file, see [`AdapterParam`].

mod config;
mod matrix;
mod pattern;
mod problems;
mod sites;
mod specs;

pub use config::{AdapterConfig, AdapterKind, AdapterPlace, AdapterScale, AdapterWeights};
pub use matrix::MatrixSite;
pub use sites::LowRankSite;
pub(super) use specs::specs;
pub use specs::{AdapterParam, AdapterPart, AdapterSite, OFFLINE};

use std::ops::Range;
use std::sync::Arc;

/// An adapter that a model is placed with.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterUse {
    /// What it is.
    pub config: Arc<AdapterConfig>,
    /// What it adds is multiplied by this; at 0 the model is the base, bit for bit.
    pub scale: f32,
    /// Which rows of a batch it is added to.
    pub rows: AdapterRows,
    /// Whether it is the offline module of an adapter, whose tensors are in the same file under names of their own. It is
    /// float32, and never trained.
    pub offline: bool,
}

/// The rows of a batch that an adapter is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterRows {
    /// All.
    All,
    /// None: its tensors are there, and nothing is computed with them.
    None,
    /// Of `of` equal parts of the sequences the one of this number.
    Part {
        /// Which.
        index: usize,
        /// Of how many.
        of: usize,
    },
}

impl AdapterRows {
    /// Those of so many.
    ///
    /// # Panics
    /// If they cannot be divided so.
    pub(super) fn of(self, rows: usize) -> Range<usize> {
        match self {
            Self::All => 0..rows,
            Self::None => 0..0,
            Self::Part { index, of } => {
                let part = rows / of;
                assert_eq!(part * of, rows, "as many rows for each expert");
                index * part..(index + 1) * part
            }
        }
    }
}

impl AdapterUse {
    /// An adapter as it was trained.
    pub fn whole(config: AdapterConfig) -> Self {
        Self { config: Arc::new(config), scale: 1.0, rows: AdapterRows::All, offline: false }
    }

    /// The offline module beside it, added to no row.
    pub fn offline(&self) -> Self {
        Self { rows: AdapterRows::None, offline: true, ..self.clone() }
    }
}
