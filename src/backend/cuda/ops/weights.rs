//! Stored weights as kernels read them.

use super::{dim, pitch, product};
use crate::backend::Weight;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;
use crate::quant::{GroupedShape, WeightCodec};

/// A part of a weight: rows from `row` on, columns from `col` on, which is a multiple of [`COLS`].
#[derive(Clone, Copy, Debug)]
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
            concat!($operation, "_fp4"),
        ]
    };
}
pub(crate) use codec_kernels;

/// The kernel for a weight's codec.
pub(crate) fn kernel(kernels: [&'static str; WeightCodec::ALL.len()], w: &Weight) -> &'static str {
    kernels[w.format.codec() as usize]
}

/// The kernels trust the lengths of a weight's planes.
///
/// # Panics
/// If one does not fit the shape, or the shape the kernels.
pub(crate) fn check(w: &Weight) {
    check_shape(w.shape);
    w.check();
}

/// Products of a shape must not wrap, and its groups be those that kernels divide rows into.
///
/// # Panics
/// If not.
pub(crate) fn check_shape(g: GroupedShape) {
    product([4, dim(g.rows) as usize, dim(g.padded_cols()) as usize]);
    assert!(g.group.is_power_of_two() && (32..=COLS).contains(&g.group), "groups of {}", g.group);
}

/// Adds the planes that products read, null where there is none.
///
/// # Panics
/// If one does not fit the shape.
pub(crate) fn planes(gpu: &Gpu, args: Args, w: &Weight) -> Args {
    check(w);
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
    check(w);
    let g = w.shape;
    assert!(
        part.col.is_multiple_of(COLS) && part.row + part.rows <= g.rows && part.col + part.cols <= g.cols,
        "{part:?}"
    );
    assert!(2 * part.rows * pitch(part.cols) <= to.bytes, "{} x {} in {} bytes", part.rows, part.cols, to.bytes);
    let shape = |args: Args| {
        let numbers = [part.row, part.col, part.rows, part.cols, row_elements(w)];
        numbers.iter().fold(args, |args, &n| args.u32(dim(n)))
    };
    let (kernel, args, threads) = match w.format.simulates() {
        Some(codec) => {
            let args = shape(Args::new().span(gpu, w.data).span(gpu, to)).u32(dim(g.group));
            let groups = part.rows * part.cols.div_ceil(g.group);
            ("simulate_int4", args.u32(u32::from(codec.has_offsets())), 32 * groups)
        }
        None => {
            let args = shape(planes(gpu, Args::new(), w).span(gpu, to)).u32(g.group.trailing_zeros());
            (kernel(codec_kernels!("dequantize"), w), args, part.rows * part.cols.div_ceil(8))
        }
    };
    // SAFETY: the parameters of the kernel for this codec, which reads the part, inside the planes that `check` found to
    // be as long as the shape says, and writes its rows, for which `to` has room.
    unsafe { gpu.launch(kernel, [dim(threads.div_ceil(256)), 1, 1], 256, 0, &args) };
}
