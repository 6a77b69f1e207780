//! RMSNorm and its gradient.

use super::pitch;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{Largest, Store};
use crate::memory::Span;

/// Rows of one partial sum of a gain's gradient, at least; and how many partial sums at most.
const ROWS: usize = 16;
const CHUNKS: usize = 128;

/// Scratch in bytes: one row of float32 partial sums per chunk of rows.
pub(crate) fn need(largest: &Largest) -> usize {
    4 * chunks(largest.tokens).0 * largest.features
}

/// How many chunks of how many rows.
pub(crate) fn chunks(rows: usize) -> (usize, usize) {
    let per_chunk = rows.div_ceil(CHUNKS).max(ROWS);
    (rows.div_ceil(per_chunk), per_chunk)
}

/// See [`crate::backend::Backend::rms_norm`].
pub(crate) fn rms_norm(gpu: &mut Gpu, x: Span, gain: Span, out: Span, inv_rms: Span, eps: f32) {
    let (rows, width) = (inv_rms.bytes / 4, gain.bytes / 4);
    assert!(x.bytes == 2 * rows * pitch(width) && out.bytes == x.bytes, "whole rows");
    let args = Args::new().span(gpu, x).span(gpu, gain).span(gpu, out).span(gpu, inv_rms);
    let args = args.u32(rows as u32).u32(width as u32).f32(eps);
    gpu.launch("rms_norm", [rows.div_ceil(8) as u32, 1, 1], 256, 0, &args);
}

/// See [`crate::backend::Backend::rms_norm_grad`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn rms_norm_grad(
    gpu: &mut Gpu,
    x: Span,
    gain: Span,
    inv_rms: Span,
    dout: Span,
    dx: Span,
    dgain: Span,
    store: Store,
) {
    let (rows, width) = (inv_rms.bytes / 4, gain.bytes / 4);
    let same = [x, dout, dx].iter().all(|span| span.bytes == 2 * rows * pitch(width));
    assert!(same && dgain.bytes >= gain.bytes, "whole rows");
    let (count, per_chunk) = chunks(rows);
    let partial = gpu.scratch.head(4 * count * width);
    let args = Args::new().span(gpu, x).span(gpu, inv_rms).span(gpu, dout).span(gpu, partial);
    let args = args.u32(rows as u32).u32(width as u32).u32(per_chunk as u32);
    gpu.launch("rms_norm_gain_partial", [width.div_ceil(256) as u32, count as u32, 1], 256, 0, &args);
    sum_columns(gpu, partial, dgain, (count, width), store);
    let args = Args::new().span(gpu, x).span(gpu, gain).span(gpu, inv_rms).span(gpu, dout).span(gpu, dx);
    let args = args.u32(rows as u32).u32(width as u32);
    gpu.launch("rms_norm_grad", [rows.div_ceil(8) as u32, 1, 1], 256, 0, &args);
}

/// `out[column]` = the sum of `count` rows of partial sums, in order.
pub(crate) fn sum_columns(gpu: &mut Gpu, partial: Span, out: Span, (count, width): (usize, usize), store: Store) {
    let args = Args::new().span(gpu, partial).span(gpu, out).u32(count as u32).u32(width as u32);
    let args = args.u32(u32::from(store == Store::Accumulate));
    gpu.launch("sum_columns", [width.div_ceil(256) as u32, 1, 1], 256, 0, &args);
}
