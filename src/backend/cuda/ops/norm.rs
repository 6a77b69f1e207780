//! RMSNorm and its gradient.

use super::{dim, product, rows_of};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::ops::Norm;
use crate::backend::{Accumulate, MaxShapes, NormGradArgs};
use crate::memory::Span;

/// Rows of one partial sum of a gain's gradient, at least; and how many partial sums at most.
const ROWS: usize = 16;
const CHUNKS: usize = 128;

/// Columns of a row up to which one kernel forms both gradients, and elements of a thread there (`kernels/norm.cu`).
const GAIN_COLUMNS: usize = 4096;
const GAIN_ELEMENTS: usize = 8;
/// How many blocks that kernel has at most: two for each multiprocessor of the largest devices.
const GAIN_CHUNKS: usize = 256;

/// Workspace in bytes: one row of float32 partial sums per chunk of rows.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    let of_both = gain_chunks(max.tokens).0 * max.features.min(GAIN_COLUMNS);
    4 * of_both.max(chunks(max.tokens).0 * max.features)
}

/// How many chunks of how many rows, where one kernel forms both gradients.
fn gain_chunks(rows: usize) -> (usize, usize) {
    let per_chunk = rows.div_ceil(GAIN_CHUNKS).max(ROWS);
    (rows.div_ceil(per_chunk), per_chunk)
}

/// How many chunks of how many rows.
pub(crate) fn chunks(rows: usize) -> (usize, usize) {
    let per_chunk = rows.div_ceil(CHUNKS).max(ROWS);
    (rows.div_ceil(per_chunk), per_chunk)
}

impl Norm for Cuda {
    fn rms_norm(&mut self, x: Span, gain: Span, out: Span, inv_rms: Span, eps: f32) {
        let gpu = &mut self.gpu;
        let (rows, width) = (inv_rms.bytes / 4, gain.bytes / 4);
        assert!(rows_of(x, width) == rows && out.bytes == x.bytes, "whole rows");
        let args = Args::new().span(gpu, x).span(gpu, gain).span(gpu, out).span(gpu, inv_rms);
        let args = args.u32(dim(rows)).u32(dim(width)).f32(eps);
        // SAFETY: the parameters of `rms_norm`, which stays within `rows` rows of x and out, `width` gains and `rows`
        // of inv_rms; the operands have as many.
        unsafe { gpu.launch("rms_norm", [dim(rows.div_ceil(8)), 1, 1], 256, 0, &args) };
    }

    fn rms_norm_grad(&mut self, args: &NormGradArgs) {
        let gpu = &mut self.gpu;
        let &NormGradArgs { x, gain, inv_rms, dout, dx, dgain, accumulate } = args;
        let (rows, width) = (inv_rms.bytes / 4, gain.bytes / 4);
        let same = dout.bytes == x.bytes && dx.bytes == x.bytes;
        assert!(rows_of(x, width) == rows && same && dgain.bytes >= gain.bytes, "whole rows");
        if width <= GAIN_COLUMNS {
            return grad_with_gain(gpu, args, (rows, width));
        }
        let (count, per_chunk) = chunks(rows);
        let partial = gpu.workspace().head(product([4, count, width]));
        let args = Args::new().span(gpu, x).span(gpu, inv_rms).span(gpu, dout).span(gpu, partial);
        let args = args.u32(dim(rows)).u32(dim(width)).u32(dim(per_chunk));
        let grid = [dim(width.div_ceil(8 * 256)), dim(count), 1];
        // SAFETY: the parameters of `rms_norm_gain_partial`, which reads `rows` rows and writes `width` sums for each of
        // the grid's `count` chunks; x and dout have the rows, `partial` the sums.
        unsafe { gpu.launch("rms_norm_gain_partial", grid, 256, 0, &args) };
        sum_columns(gpu, partial, dgain.head(4 * width), (count, width), accumulate);
        let args = Args::new().span(gpu, x).span(gpu, gain).span(gpu, inv_rms).span(gpu, dout).span(gpu, dx);
        let args = args.u32(dim(rows)).u32(dim(width));
        // SAFETY: the parameters of `rms_norm_grad`, which stays within `rows` rows of x, dout and dx, `width` gains and
        // `rows` of inv_rms; the operands have as many.
        unsafe { gpu.launch("rms_norm_grad", [dim(rows.div_ceil(8)), 1, 1], 256, 0, &args) };
    }
}

/// Both gradients by one pass over `x`, `dout` and `dx`, which are `rows` rows of at most [`GAIN_COLUMNS`] columns.
fn grad_with_gain(gpu: &mut Gpu, args: &NormGradArgs, (rows, width): (usize, usize)) {
    let &NormGradArgs { x, gain, inv_rms, dout, dx, dgain, accumulate } = args;
    let (count, per_chunk) = gain_chunks(rows);
    let partial = gpu.workspace().head(product([4, count, width]));
    let args = Args::new().span(gpu, x).span(gpu, gain).span(gpu, inv_rms).span(gpu, dout).span(gpu, dx);
    let args = args.span(gpu, partial).u32(dim(rows)).u32(dim(width)).u32(dim(per_chunk));
    let threads = dim(width.div_ceil(GAIN_ELEMENTS).next_multiple_of(32));
    // SAFETY: the parameters of `rms_norm_grad_gain`, which stays within `rows` rows of x, dout and dx, `width` gains and `rows`
    // of inv_rms, which the caller found there, and writes `width` sums for each of the grid's `count` chunks, for which
    // `partial` has room; it has threads for all columns.
    unsafe { gpu.launch("rms_norm_grad_gain", [dim(count), 1, 1], threads, 0, &args) };
    sum_columns(gpu, partial, dgain.head(4 * width), (count, width), accumulate);
}

/// `out[column]` = the sum of `count` rows of partial sums, in a fixed order.
///
/// # Panics
/// If a span has another size.
pub(crate) fn sum_columns(
    gpu: &mut Gpu,
    partial: Span,
    out: Span,
    (count, width): (usize, usize),
    accumulate: Accumulate,
) {
    assert!(partial.bytes == product([4, count, width]) && out.bytes == 4 * width, "{count} sums of {width} columns");
    let args = Args::new().span(gpu, partial).span(gpu, out).u32(dim(count)).u32(dim(width));
    let args = args.u32(u32::from(accumulate == Accumulate::Yes));
    // SAFETY: the parameters of `sum_columns`, which reads `count` rows of `width` partial sums and writes `width`;
    // the spans have exactly these.
    unsafe { gpu.launch("sum_columns", [dim(width.div_ceil(32)), 1, 1], 256, 0, &args) };
}
