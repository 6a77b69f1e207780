//! Biases of linear layers and their gradient.

use super::norm::{chunks, sum_columns};
use super::pitch;
use crate::backend::Store;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;

/// See [`crate::backend::Backend::add_bias`].
pub(crate) fn add_bias(gpu: &mut Gpu, x: Span, bias: Span, width: usize) {
    let rows = x.bytes / (2 * pitch(width));
    assert!(x.bytes == 2 * rows * pitch(width) && bias.bytes == 4 * width, "whole rows");
    let args = Args::new().span(gpu, x).span(gpu, bias).u32(width as u32);
    gpu.launch("add_bias", [rows as u32, 1, 1], 256, 0, &args);
}

/// See [`crate::backend::Backend::bias_grad`]; the partial sums are those of a norm's gain.
pub(crate) fn bias_grad(gpu: &mut Gpu, dy: Span, grad: Span, width: usize, store: Store) {
    let rows = dy.bytes / (2 * pitch(width));
    assert!(dy.bytes == 2 * rows * pitch(width) && grad.bytes == 4 * width, "whole rows");
    let (count, per_chunk) = chunks(rows);
    let partial = gpu.scratch.head(4 * count * width);
    let args = Args::new().span(gpu, dy).span(gpu, partial);
    let args = args.u32(rows as u32).u32(width as u32).u32(per_chunk as u32);
    gpu.launch("bias_grad_partial", [width.div_ceil(256) as u32, count as u32, 1], 256, 0, &args);
    sum_columns(gpu, partial, grad, (count, width), store);
}
