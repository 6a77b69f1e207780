//! Sums of another rank, added to this rank's.

use super::dim;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;

const THREADS: u32 = 256;

/// `sums += received`, float32; `received` is an address with as many bytes, as [`Gpu::recv_sums`] gives it.
///
/// # Panics
/// If there is a part of an element.
pub(in crate::backend::cuda) fn add(gpu: &mut Gpu, received: u64, sums: Span) {
    assert!(sums.bytes.is_multiple_of(4), "whole elements in {} bytes", sums.bytes);
    let count = sums.bytes / 4;
    if count > 0 {
        let args = Args::new().address(received).span(gpu, sums).u64(count as u64);
        // SAFETY: the parameters of the kernel, which reads `count` elements that were received and changes as many.
        unsafe { gpu.launch("add_received", [dim(count.div_ceil(THREADS as usize)), 1, 1], THREADS, 0, &args) };
    }
}
