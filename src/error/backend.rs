//! Errors of a device.

use super::RanksError;

/// Why a device cannot be used, or stopped working.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendError {
    /// The plan is larger than the device's free memory.
    #[error("{device}: {needed} bytes of memory are planned, {free} of {total} are free{}", less(*kept))]
    Memory {
        /// The device's name.
        device: String,
        /// Bytes of the one allocation.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes the device has.
        total: u64,
        /// Bytes of the free ones that are left to the device's libraries.
        kept: u64,
    },
    /// A library is missing or unusable.
    #[error("{library} was not found: looked for {files} in {searched}{refused}")]
    Library {
        /// What it is.
        library: &'static str,
        /// The names it may have.
        files: String,
        /// Where they were looked for.
        searched: String,
        /// Files that were found, and why each was rejected; starts with a separator if not empty.
        refused: String,
    },
    /// The installed libraries need a newer driver.
    #[error("the NVIDIA driver supports CUDA {supports}, {library} needs CUDA {needs}")]
    OldDriver {
        /// Version of CUDA, major and minor.
        supports: String,
        /// The library that is too new for it.
        library: String,
        /// The lowest version that would suffice.
        needs: String,
    },
    /// The driver is installed but does not start.
    #[error("the NVIDIA driver does not start: {what}: {code}")]
    Driver {
        /// The call that failed.
        what: &'static str,
        /// Its error.
        code: String,
    },
    /// No such device.
    #[error("there is no CUDA device {asked}: the driver shows {found}")]
    NoDevice {
        /// Its number.
        asked: u32,
        /// How many there are.
        found: u32,
    },
    /// The device is older than the kernels require.
    #[error("{device} has compute capability {found}, 8.0 (Ampere) or newer is needed")]
    OldDevice {
        /// The device's name.
        device: String,
        /// Its compute capability.
        found: String,
    },
    /// A kernel does not compile.
    #[error("{source_file} does not compile for {architecture} ({code}):\n{log}")]
    Compile {
        /// The kernels' file.
        source_file: String,
        /// The device's architecture.
        architecture: String,
        /// The compiler's error.
        code: String,
        /// What it said.
        log: String,
    },
    /// An operation failed; the operations after it were not executed.
    #[error("{device}: {what} failed: {code}")]
    Failed {
        /// The device's name.
        device: String,
        /// The operation or kernel.
        what: String,
        /// The library's error.
        code: String,
    },
    /// The device does not multiply floats of eight bits.
    #[error(
        "activations.compute = \"fp8\" needs compute capability 8.9 (Ada) or newer, the device has {found}; \
        use \"int8\" or \"f32\", or --device cpu"
    )]
    NoFp8 {
        /// Its compute capability.
        found: String,
    },
    /// The kernels do not support heads of this size.
    #[error("the model has heads of {found} elements; on a GPU they have at most {most}, a multiple of {multiple}")]
    HeadDim {
        /// Elements of a head.
        found: usize,
        /// At most.
        most: usize,
        /// What they must be a multiple of.
        multiple: usize,
    },
    /// Other ranks hold a part of the results, and cannot be reached.
    #[error(transparent)]
    Ranks(#[from] RanksError),
}

fn less(kept: u64) -> String {
    if kept == 0 { String::new() } else { format!(", of which {kept} are left to CUDA's libraries") }
}
