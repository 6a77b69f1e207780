//! The GGUF container: keys with values, tensors with ranges of bytes. Knows no model.

mod cursor;
mod read;
mod value;
mod write;

pub use read::{Gguf, TensorInfo};
pub use value::{Array, Value};
pub use write::{GgufWriter, Item, MetaValue};
