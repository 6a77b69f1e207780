//! The operations on a CPU: one file each, over slices. Work is divided among the threads so that no sum is cut by their
//! number, and results are the same bits for any; loops are compiled for each instruction set and the best that the processor has
//! is chosen once. Nothing is allocated: what an operation needs beyond its operands is workspace that was planned.

mod memory;
mod ops;
mod peaks;
mod simd;

pub use peaks::{Peaks, peaks};
pub use simd::isa::Isa;

use super::{Backend, Compute, DeviceInfo, MaxShapes, UpdateStats};
use crate::error::BackendError;
use crate::memory::{ALIGN, Arena, ArenaBorrow, Span};
use ops::update::Gate;
use ops::{
    adam, attention, attention_grad, factors, linear, linear_bf16, linear_fp8, linear_grad_int8, linear_grad_weight,
    linear_grad_weight_bf16, linear_int8, matmul,
};
use simd::tasks::{Pool, Scratch};

/// A processor with some of its threads. It may be used from any thread: operations called inside a rayon pool with as
/// many threads as it has run there, all others in a pool of its own.
pub struct Cpu {
    isa: Isa,
    pool: Pool,
    arena: Arena,
    workspace: Span,
    update_stats: UpdateStats,
    /// Whether updates change nothing until they are asked about.
    held: bool,
    /// What the gradient of the update that was begun allows.
    gate: Gate,
}

impl Cpu {
    /// The best instruction set, and as many threads as the caller's rayon pool has, or outside of one the global pool;
    /// without memory until [`super::Memory::allocate`].
    pub fn new() -> Self {
        Self::with_isa(Isa::best())
    }

    /// The same with a chosen instruction set.
    pub fn with_isa(isa: Isa) -> Self {
        Self::with_threads(isa, rayon::current_num_threads())
    }

    /// The same with `threads` threads, at least one.
    pub fn with_threads(isa: Isa, threads: usize) -> Self {
        Self {
            isa,
            pool: Pool::new(threads),
            arena: Arena::new(0),
            workspace: Span::NONE,
            update_stats: UpdateStats::default(),
            held: false,
            gate: Gate::default(),
        }
    }

    /// The slices of an operation, its workspace among them.
    fn begin(&mut self) -> (Isa, Scratch<'_>, ArenaBorrow<'_>) {
        let mut slices = self.arena.borrow_slices();
        let scratch = Scratch::new(slices.write(self.workspace), &self.pool);
        (self.isa, scratch, slices)
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl DeviceInfo for Cpu {
    fn activation_bytes(&self) -> usize {
        size_of::<f32>()
    }

    fn row_multiple(&self) -> usize {
        1
    }

    fn workspace_bytes(&self, max: &MaxShapes) -> usize {
        let needs = [
            linear::need(max),
            linear_bf16::need(max),
            linear_int8::need(max),
            linear_fp8::need(max),
            linear_grad_int8::need(max),
            linear_grad_weight::need(),
            linear_grad_weight_bf16::need(max),
            attention::need(max),
            attention_grad::need(max),
            adam::need(max),
            factors::need(max),
            matmul::need(max),
        ];
        let elements =
            needs.into_iter().map(|need| need.total(self.pool.threads())).max().expect("there are operations");
        (elements * size_of::<f32>()).next_multiple_of(ALIGN)
    }

    /// A chunk of logits is written and read several times; a small one stays in the caches. In bfloat16 products take so little
    /// time that a chunk has to make up for the reading of the whole head.
    fn logits_bytes(&self, compute: Compute) -> usize {
        if compute == Compute::Bf16 { 64 << 20 } else { 16 << 20 }
    }

    fn check_heads(&self, _: usize, _: bool) -> Result<(), BackendError> {
        Ok(())
    }

    fn check_compute(&self, _: Compute) -> Result<(), BackendError> {
        Ok(())
    }

    fn sums_in_parts(&self) -> bool {
        false
    }

    fn joins_products(&self) -> bool {
        false
    }

    fn reads_mapped(&self) -> bool {
        true
    }

    fn free_memory(&self) -> Option<u64> {
        None
    }

    fn queues(&self) -> bool {
        false
    }

    fn in_place(&self) -> bool {
        true
    }
}

impl Backend for Cpu {
    fn describe(&self) -> String {
        let threads = self.pool.threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("CPU, {threads} thread{plural}, {}", self.isa.name())
    }
}
