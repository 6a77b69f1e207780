//! The operations on an NVIDIA GPU: files and names as in [`super::ops`], each a launch of kernels in `kernels/`.
//! Activations are bfloat16, accumulation is float32, the update of packed planes is bit-identical to the CPU's. All
//! memory is one allocation; operations are submitted to one key and return before they are done.
//!
//! CUDA is needed neither to build nor to start: the driver, NVRTC and cuBLASLt are looked for when a device is
//! opened, NCCL when it joins others.

mod info;
mod memory;
mod ops;
mod peers;
pub mod runtime;

pub use info::Info;
pub use runtime::{
    Args, Capability, Compiler, Cubin, Form, Gpu, HEADERS, Matrix, Output, Product, SOURCES, Search, Strided,
};
pub use runtime::{Lost, NcclLibrary, Source, UniqueId, Usage, count, probe, usages};

use super::{Backend, Peers, UpdateStats};
use crate::error::BackendError;

/// Tens of MiB are expected.
const SLACK: u64 = 256 << 20;

/// One GPU with the kernels of this crate.
pub struct Cuda {
    gpu: Gpu,
    /// How much of what updates did is kept on the device, and what was read of it.
    kept: usize,
    read: Vec<UpdateStats>,
}

impl Cuda {
    /// Opens device number `ordinal`; without memory until [`super::Memory::allocate`].
    ///
    /// # Errors
    /// What is missing: driver, device, compiler, or one of them too old.
    pub fn open(ordinal: u32) -> Result<Self, BackendError> {
        Self::open_with(ordinal, &Search::usual())
    }

    /// The same, with libraries looked for where `search` says.
    ///
    /// # Errors
    /// As [`Cuda::open`].
    pub fn open_with(ordinal: u32, search: &Search) -> Result<Self, BackendError> {
        Ok(Self { gpu: Gpu::open_with(ordinal, search, SOURCES)?, kept: 0, read: Vec::new() })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        self.gpu.name()
    }

    /// Seconds that the device takes for the operations that `work` submits.
    ///
    /// # Errors
    /// The first failure.
    pub fn time(&mut self, work: impl FnOnce(&mut Self)) -> Result<f64, BackendError> {
        self.gpu.start_timer();
        work(self);
        self.gpu.stop_timer()
    }

    /// Free and total bytes of device memory, as the driver reports them.
    ///
    /// # Errors
    /// If the driver does not answer.
    pub fn memory(&self) -> Result<(u64, u64), BackendError> {
        self.gpu.free_memory()
    }

    /// Bytes of the free memory that no plan may take: cuBLASLt's kernels are loaded at the first product of each kind, and
    /// the driver may enlarge what it has for itself.
    pub(crate) fn slack(total: u64) -> u64 {
        SLACK.min(total / 32)
    }

    /// Whether a plan of `needed` bytes has room now, with what the libraries take later.
    ///
    /// # Errors
    /// If not, with the figures.
    pub fn check_memory(&self, needed: u64) -> Result<(), BackendError> {
        let (free, total) = self.memory()?;
        let kept = Self::slack(total);
        match needed.saturating_add(kept) <= free {
            true => Ok(()),
            false => Err(BackendError::Memory { device: self.name().into(), needed, free, total, kept }),
        }
    }
}

impl Backend for Cuda {
    fn describe(&self) -> String {
        format!("{}, {}", self.gpu.name(), self.gpu.libraries())
    }

    fn peak_flops(&self) -> Option<f64> {
        self.gpu.peak_flops()
    }

    fn record_graphs(&mut self, on: bool) -> bool {
        self.gpu.record_graphs(on)
    }

    fn cut_graph(&mut self) {
        self.gpu.cut_graph();
    }

    fn peers(&mut self) -> Option<&mut dyn Peers> {
        if self.gpu.is_joined() { Some(self) } else { None }
    }
}
