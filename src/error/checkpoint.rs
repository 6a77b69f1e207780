//! Errors of saving and loading a training state.

use super::{ConfigError, ContentsError, DataError, FormatError, RanksError, StoreError, WriteError};
use std::path::PathBuf;

/// Why a state could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file system.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A rank that holds a part of the state is lost.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// The file's bytes.
    #[error("{path}: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<FormatError>,
    },
    /// The contents of the planes.
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
    /// The metadata is incomplete or contradictory.
    #[error("{path}: the metadata does not describe a tetrad model: {what}")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The state belongs to a rule that this version does not know.
    #[error("{path}: the optimizer state cannot be resumed: {what}; its weights can be used")]
    Optimizer {
        /// The file.
        path: PathBuf,
        /// What is not known.
        what: String,
    },
    /// Two prefixes at once.
    #[error("{path}: is a prefix, and so is {other}; a text can begin after one prefix only")]
    TwoPrefixes {
        /// The second file.
        path: PathBuf,
        /// The first.
        other: PathBuf,
    },
    /// The metadata describes an impossible model.
    #[error("{path}: the metadata describes an impossible model: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// A tensor of the described model is missing.
    #[error("{path}: tensor {name} of the described model is missing ({missing} missing in total)")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The first that is missing.
        name: String,
        /// How many are.
        missing: usize,
    },
    /// A tensor that the described model lacks.
    #[error("{path}: tensor {name} is not part of the described model ({surplus} such tensors in total)")]
    Surplus {
        /// The file.
        path: PathBuf,
        /// The first one.
        name: String,
        /// How many there are.
        surplus: usize,
    },
    /// A tensor has another shape or storage than the described model.
    #[error("{path}: tensor {name} is {found}, but the metadata describes {expected}")]
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
    /// A required plane is missing, or has another type.
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
    /// A resumed run keeps other state of a tensor than was saved.
    #[error("{path}: tensor {name} was saved with the optimizer state {found}; this run keeps {expected}")]
    State {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Names, codecs and shapes in the file.
        found: String,
        /// Those of the run's rule.
        expected: String,
    },
    /// A resumed run would end before the saved step.
    #[error("{path}: is at step {step}, and the run ends at step {steps}")]
    PastEnd {
        /// The file.
        path: PathBuf,
        /// Steps done.
        step: u64,
        /// Steps of the configuration.
        steps: u64,
    },
    /// No checkpoint of a run can be used.
    #[error("{newest}; {}", match others {
        0 => "it is the only checkpoint".into(),
        others => format!("so are all {others} before it"),
    })]
    AllDamaged {
        /// What is wrong with the newest.
        newest: Box<CheckpointError>,
        /// How many others are damaged.
        others: usize,
    },
    /// What it carries beside the weights cannot be used.
    #[error("{path}: {source}")]
    Carried {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<DataError>,
    },
    /// A checkpoint where a configuration is needed.
    #[error("{path}: is a checkpoint, no configuration")]
    NoConfiguration {
        /// The file.
        path: PathBuf,
    },
    /// Two checkpoints of which one is to be continued.
    #[error("{path}: is a checkpoint, and another is named already")]
    NamedTwice {
        /// The file.
        path: PathBuf,
    },
    /// A folder where a run is needed.
    #[error("{path}: is a folder without a run")]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// A folder of which nothing can be continued.
    #[error("{path}: holds no checkpoint")]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that says nothing of a run.
    #[error("{path}: holds neither a checkpoint nor the config.toml of a run")]
    NoRecord {
        /// The folder.
        path: PathBuf,
    },
    /// A run would be continued before its end.
    #[error("{path}: is at step {step}, but {dir} holds later checkpoints, up to step {later}")]
    NotLast {
        /// The file.
        path: PathBuf,
        /// Steps done.
        step: u64,
        /// The folder of the run.
        dir: PathBuf,
        /// Steps of the last checkpoint there that is sound.
        later: u64,
    },
    /// An adapter where a model is needed.
    #[error("{path}: is an adapter; only with the model that it was trained on does it compute anything")]
    AdapterAlone {
        /// The file.
        path: PathBuf,
    },
    /// A model where an adapter is needed.
    #[error("{path}: is a model of its own, not an adapter")]
    NoAdapter {
        /// The file.
        path: PathBuf,
    },
    /// An adapter with two modules where one is needed.
    #[error("{path}: has an online and an offline module; one of them alone is needed")]
    TwoModules {
        /// The file.
        path: PathBuf,
    },
    /// An adapter without an offline module.
    #[error("{path}: has no offline module; one exists from the second task on")]
    OneModule {
        /// The file.
        path: PathBuf,
    },
    /// An adapter of another base.
    #[error(
        "{path}: was trained on a base with the fingerprint {expected}; {base} has the fingerprint {found}, and beside other \
         weights an adapter means nothing"
    )]
    OtherBase {
        /// The adapter.
        path: PathBuf,
        /// The model that it was to be used with.
        base: PathBuf,
        /// The fingerprint that the adapter names.
        expected: String,
        /// The fingerprint of the model.
        found: String,
    },
    /// A resumed run must have the same settings.
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

impl CheckpointError {
    /// Whether the file itself cannot be used, whatever is done with it: not what was saved, or not all of it.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Empty { .. } | StoreError::NotAFile { .. }),
            Self::Format { .. }
            | Self::Contents { .. }
            | Self::Metadata { .. }
            | Self::Config { .. }
            | Self::Missing { .. }
            | Self::Surplus { .. }
            | Self::Shape { .. } => true,
            _ => false,
        }
    }
}
