//! Why a run could not begin.

use super::{BackendError, StoreError};

/// Why a model could not be given its memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The device has too little, or none that can be used.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The folder of the run cannot hold a working file.
    #[error(transparent)]
    Store(#[from] StoreError),
}
