//! What a device can refuse.

/// Why a device cannot be used, or stopped working.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendError {
    /// The plan is larger than the device's free memory.
    #[error(
        "{device}: {needed} bytes of memory are planned, {free} of {total} are free; lower train.batch, set \
         run.activations=recompute, or choose a smaller model (`tetrad plan --budget` says what fits)"
    )]
    Memory {
        /// The device's name.
        device: String,
        /// Bytes of the one allocation.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes the device has.
        total: u64,
    },
}
