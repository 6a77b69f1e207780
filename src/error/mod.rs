//! One error enum per layer, each in its own file. An error states facts: what was found and what is allowed. Advice
//! that names flags, configuration keys or commands is given by the program, which knows them.

mod adapter;
mod backend;
mod checkpoint;
mod config;
mod convert;
mod data;
mod format;
mod ranks;
mod start;
mod store;

pub use adapter::AdapterError;
pub use backend::BackendError;
pub use checkpoint::CheckpointError;
pub use config::{ConfigError, Place, Problem, Problems, number};
pub use convert::{ConvertError, GgufError, SafetensorsError};
pub use data::{DataError, DataSet};
pub use format::{ContentsError, FormatError, StateError, WriteError};
pub use ranks::RanksError;
pub use start::StartError;
pub use store::{ReplaceError, StoreError};
