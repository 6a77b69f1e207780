//! Rows of a table by token, and their gradient.

use super::pitch;
use super::weights::{codec_kernels, kernel, planes, row_elements};
use crate::backend::Weight;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;

/// See [`crate::backend::Backend::embedding`]. A token beyond the table gives a row that is not a number.
pub(crate) fn embedding(gpu: &mut Gpu, tokens: Span, table: &Weight, out: Span) {
    let (g, count) = (table.shape, tokens.bytes / 4);
    assert_eq!(out.bytes, 2 * count * pitch(g.cols), "a row for each token");
    assert!(table.format.simulates().is_none(), "tables are never simulated");
    let args = planes(gpu, Args::new().span(gpu, tokens), table).span(gpu, out);
    let args = args.u32(g.rows as u32).u32(g.cols as u32).u32(row_elements(table) as u32);
    let kernel = kernel(codec_kernels!("embedding"), table);
    gpu.launch(kernel, [count as u32, 1, 1], 256, 0, &args.u32(g.group.trailing_zeros()));
}

/// See [`crate::backend::Backend::embedding_grad`].
pub(crate) fn embedding_grad(gpu: &mut Gpu, tokens: Span, dout: Span, grad: Span, features: usize) {
    let count = tokens.bytes / 4;
    assert!(dout.bytes == 2 * count * pitch(features) && grad.bytes.is_multiple_of(4 * features), "whole rows");
    let args = Args::new().span(gpu, tokens).span(gpu, dout).span(gpu, grad).u32(count as u32);
    let args = args.u32((grad.bytes / (4 * features)) as u32).u32(features as u32);
    gpu.launch("embedding_grad", [count as u32, 1, 1], 256, 0, &args);
}
