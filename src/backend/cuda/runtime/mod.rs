//! CUDA itself, without any operation: libraries found at run time, the compiler and its cache, one device with its
//! memory, its stream and its kernels, matrix products by cuBLASLt, and host memory that the device accesses.

mod args;
mod cache;
mod compile;
mod copies;
mod device;
mod gpu;
mod libraries;
mod memory;
mod modules;
mod offload;
mod product;
mod report;
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

use crate::error::BackendError;

/// Whether there is a driver with a device, which is not opened.
///
/// # Errors
/// If there is none.
pub fn probe() -> Result<(), BackendError> {
    device::probe(&Search::usual().driver()?, 0)
}
