//! One error enum per layer, each in its own file: the numbers found and allowed, and what to do next.

mod backend;
mod checkpoint;
mod config;
mod convert;
mod data;
mod format;
mod start;
mod store;

pub use backend::BackendError;
pub use checkpoint::CheckpointError;
pub use config::{ConfigError, Place, Problem};
pub use convert::{ConvertError, GgufError, SafetensorsError};
pub use data::DataError;
pub use format::{ContentsError, FormatError, WriteError};
pub use start::StartError;
pub use store::{ReplaceError, StoreError};
