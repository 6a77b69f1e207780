//! Sums that go to another rank, and those that come from one.

use super::dim;
use crate::backend::Precision;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;

const THREADS: u32 = 256;

/// Rounds `sums`, float32, to bfloat16 at [`Gpu::sums`].
///
/// # Panics
/// If there is a part of an element, or they are longer than [`Gpu::MOST_SUMS`].
pub(in crate::backend::cuda) fn round(gpu: &mut Gpu, sums: Span) {
    let count = elements(sums);
    if count > 0 {
        let args = Args::new().span(gpu, sums).address(gpu.sums()).u64(count as u64);
        // SAFETY: the parameters of the kernel, which reads `count` elements and writes as many of half their length: the memory
        // there has room for them in full length.
        unsafe { gpu.launch("round_sums", grid(count), THREADS, 0, &args) };
    }
}

/// Adds what lies at [`Gpu::sums`], rounded to `dtype`, to `sums`, float32.
///
/// # Panics
/// As [`round`].
pub(in crate::backend::cuda) fn add(gpu: &mut Gpu, sums: Span, dtype: Precision) {
    let count = elements(sums);
    if count > 0 {
        let args = Args::new().address(gpu.sums()).span(gpu, sums).u64(count as u64);
        let kernel = if dtype == Precision::Bf16 { "add_received_bf16" } else { "add_received" };
        // SAFETY: the parameters of both kernels, which read `count` elements that were received and change as many.
        unsafe { gpu.launch(kernel, grid(count), THREADS, 0, &args) };
    }
}

fn elements(sums: Span) -> usize {
    assert!(sums.bytes.is_multiple_of(4) && sums.bytes <= Gpu::MOST_SUMS, "whole elements in {} bytes", sums.bytes);
    sums.bytes / 4
}

fn grid(count: usize) -> [u32; 3] {
    [dim(count.div_ceil(THREADS as usize)), 1, 1]
}
