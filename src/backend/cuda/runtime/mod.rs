//! CUDA itself, without any operation: libraries found at run time, the compiler and its cache, one device with its
//! memory, its stream and its kernels, matrix products by cuBLASLt, host memory that the device accesses, and the devices of
//! other ranks by NCCL.

mod args;
mod cache;
mod compile;
mod copies;
mod device;
mod exchange;
mod gpu;
mod graphs;
mod libraries;
mod memory;
mod modules;
mod nccl;
mod offload;
mod product;
mod report;
mod sources;
mod stager;
mod symbols;
mod timer;

pub use args::Args;
pub use compile::{Compiler, Cubin};
pub use device::Capability;
pub use gpu::Gpu;
pub use libraries::Search;
pub use nccl::{Communicator, Lost, NcclLibrary, UniqueId};
pub use product::{Form, Matrix, Output, Product, Strided};
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

/// How many devices the driver shows; none is opened.
///
/// # Errors
/// If there is no driver, or it does not start.
pub fn count() -> Result<u32, BackendError> {
    device::count(&Search::usual().driver()?)
}
