//! Stored weights as kernels read them.

use super::pitch;
use crate::backend::Weight;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;
use crate::quant::WeightCodec;

/// A part of a weight: rows from `row` on, columns from `col` on, which is a multiple of [`COLS`].
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) row: usize,
    pub(crate) col: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// Columns of a part start at multiples of the largest group.
pub(crate) const COLS: usize = 256;

/// The kernels of an operation, one for each codec, in the order of [`WeightCodec`]: the list of `kernels/codecs.h`.
macro_rules! codec_kernels {
    ($operation:literal) => {
        [
            concat!($operation, "_f32"),
            // Only files hold f16: there is no such kernel.
            concat!($operation, "_f16"),
            concat!($operation, "_bf16"),
            concat!($operation, "_int8"),
            concat!($operation, "_int4"),
            concat!($operation, "_int4_offset"),
        ]
    };
}
pub(crate) use codec_kernels;

/// The kernel for a weight's codec.
pub(crate) fn kernel(kernels: [&'static str; WeightCodec::ALL.len()], w: &Weight) -> &'static str {
    kernels[w.format.codec() as usize]
}

/// Adds the planes that products read, null where there is none.
///
/// # Panics
/// If one does not fit the shape.
pub(crate) fn planes(gpu: &Gpu, args: Args, w: &Weight) -> Args {
    w.check();
    args.span(gpu, w.data).span(gpu, w.scales).span(gpu, w.offsets)
}

/// Elements from one row of the data to the next: rows of codes are padded to whole groups.
pub(crate) fn row_elements(w: &Weight) -> usize {
    if w.format.is_quantized() { w.shape.padded_cols() } else { w.shape.cols }
}

/// Writes a part as bf16 rows `pitch(part.cols)` apart to the beginning of `to`.
///
/// # Panics
/// If it does not fit.
pub(crate) fn dequantize(gpu: &mut Gpu, w: &Weight, part: Part, to: Span) {
    w.check();
    let g = w.shape;
    assert!(part.col.is_multiple_of(COLS) && part.row + part.rows <= g.rows && part.col + part.cols <= g.cols);
    assert!(2 * part.rows * pitch(part.cols) <= to.bytes, "{} x {} in {} bytes", part.rows, part.cols, to.bytes);
    let shape = |args: Args| {
        let numbers = [part.row, part.col, part.rows, part.cols, row_elements(w)];
        numbers.iter().fold(args, |args, &n| args.u32(n as u32))
    };
    if let Some(codec) = w.format.simulates() {
        let groups = part.rows * part.cols.div_ceil(g.group);
        let args = shape(Args::new().span(gpu, w.data).span(gpu, to)).u32(g.group as u32);
        let args = args.u32(u32::from(codec.has_offsets()));
        return gpu.launch("simulate_int4", [groups.div_ceil(8) as u32, 1, 1], 256, 0, &args);
    }
    let kernel = kernel(codec_kernels!("dequantize"), w);
    let args = shape(planes(gpu, Args::new(), w).span(gpu, to)).u32(g.group.trailing_zeros());
    let blocks = (part.rows * part.cols.div_ceil(8)).div_ceil(256);
    gpu.launch(kernel, [blocks as u32, 1, 1], 256, 0, &args);
}
