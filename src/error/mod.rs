//! One error enum per layer, each in its own file: the numbers found and allowed, and what to do next.

mod format;
mod store;

pub use format::{ContentsError, FormatError, WriteError};
pub use store::{ReplaceError, StoreError};
