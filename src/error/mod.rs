//! One error enum per layer, each in its own file: the numbers found and allowed, and what to do next.

mod config;
mod data;

pub use config::{ConfigError, Place, Problem};
pub use data::DataError;
