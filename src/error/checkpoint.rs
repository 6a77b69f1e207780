//! Errors between a training state and its file.

use super::{ConfigError, ContentsError, FormatError, StoreError, WriteError};
use std::path::PathBuf;

/// Why a state could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file system.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file's bytes.
    #[error("{path}: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<FormatError>,
    },
    /// The contents of the file's planes.
    #[error("{path}: {source}")]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<ContentsError>,
    },
    /// The state could not be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: WriteError,
    },
    /// The metadata lacks something or says something impossible.
    #[error("{path}: the metadata is not that of a tetrad model: {what}")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The metadata describe a model that cannot exist.
    #[error("{path}: the metadata describe an impossible model: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// A tensor that the described model has is not there.
    #[error("{path}: tensor {name} is missing; the metadata describe a model that has it ({missing} missing in all)")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The first that is missing.
        name: String,
        /// How many are.
        missing: usize,
    },
    /// A tensor that the described model lacks.
    #[error("{path}: tensor {name} is not part of the model that the metadata describe ({surplus} such in all)")]
    Surplus {
        /// The file.
        path: PathBuf,
        /// The first one.
        name: String,
        /// How many there are.
        surplus: usize,
    },
    /// A tensor has another shape or storage than the described model.
    #[error("{path}: tensor {name} is {found}, but the metadata describe {expected}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Shape and storage in the file.
        found: String,
        /// Shape and storage of the described model.
        expected: String,
    },
    /// A plane that is needed is not there, or of another type.
    #[error(
        "{path}: tensor {name} has no {plane} plane of {bytes} bytes; a file without optimizer state can be \
         evaluated and sampled, but not resumed"
    )]
    Plane {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The plane.
        plane: String,
        /// Its length.
        bytes: usize,
    },
    /// A resumed run ends before the state that it should go on from.
    #[error("{path}: is at step {step}, and the run ends at step {steps}")]
    PastEnd {
        /// The file.
        path: PathBuf,
        /// Steps done.
        step: u64,
        /// Steps of the configuration.
        steps: u64,
    },
    /// A resumed run must be the same run.
    #[error("{path}: saved with {key} = {saved}, the configuration has {given}")]
    Differs {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// In the file.
        saved: String,
        /// In the configuration.
        given: String,
    },
}
