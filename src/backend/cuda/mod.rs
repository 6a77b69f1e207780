//! The operations on an NVIDIA GPU: the same file stems as `backend::cpu` where an operation exists there; the
//! kernels are in `kernels/`.

mod args;
mod gpu;
mod product;
mod symbols;

pub use args::Args;
pub use gpu::Gpu;
pub use product::{Form, Matrix, Output, Product};
