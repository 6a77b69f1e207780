//! The GGUF container: keys with values, tensors with places. Knows no model.

mod cursor;
mod read;
mod value;
mod write;

pub use read::{Gguf, TensorInfo};
pub use value::{Array, Value};
pub use write::{GgufWriter, Item, MetaValue};
