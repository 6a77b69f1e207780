//! The operations on an NVIDIA GPU: the same file stems as `backend::cpu` where an operation exists there; the
//! kernels are in `kernels/`.

mod args;
mod cache;
mod compile;
mod device;
pub mod embedding;
mod gpu;
mod libraries;
pub mod linear;
pub mod linear_grad_weight;
mod memory;
mod modules;
pub mod optimizer;
mod product;
mod report;
mod shape;
mod sources;
mod symbols;
mod timer;

pub use args::Args;
pub use compile::{Compiler, Cubin};
pub use device::Capability;
pub use gpu::Gpu;
pub use libraries::Search;
pub use product::{Form, Matrix, Output, Product};
pub use report::{Usage, usages};
pub use sources::{HEADERS, SOURCES, Source};
