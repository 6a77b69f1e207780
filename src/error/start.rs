//! Why a trainer could not be created.

use super::{BackendError, StoreError};

/// Why a model could not be given its memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The device cannot be used, or has too little memory.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The run directory cannot hold a scratch file.
    #[error(transparent)]
    Store(#[from] StoreError),
}
