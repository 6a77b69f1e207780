//! One error enum per layer, each in its own file: the numbers found and allowed, and what to do next.

mod store;

pub use store::{ReplaceError, StoreError};
