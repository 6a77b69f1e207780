//! Stored weights as kernels read them.

use super::{dim, pitch, product};
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{Scheme, Weight, WeightKind};
use crate::memory::Span;

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

/// The kernels trust the lengths of a weight's planes.
///
/// # Panics
/// If one does not fit the shape.
pub(crate) fn check(w: &Weight) {
    let g = w.shape;
    // Products of the shape must not wrap, and groups be those that kernels divide rows into.
    product([4, dim(g.rows) as usize, dim(g.padded_cols()) as usize]);
    assert!(g.group.is_power_of_two() && (32..=COLS).contains(&g.group), "groups of {}", g.group);
    let scales = if matches!(w.kind, WeightKind::Int8 | WeightKind::Int4) { 2 * g.groups() } else { 0 };
    let offsets = if w.kind == WeightKind::Int4 && w.scheme == Scheme::Asymmetric { scales } else { 0 };
    let data = match w.kind {
        WeightKind::F32 | WeightKind::Int4Simulated => 4 * g.len(),
        WeightKind::Bf16 => 2 * g.len(),
        WeightKind::Int8 => g.padded_len(),
        WeightKind::Int4 => g.nibble_bytes(),
    };
    let found = (w.data.bytes, w.scales.bytes, w.offsets.bytes);
    assert_eq!(found, (data, scales, offsets), "bytes of data, scales and offsets of a {:?} weight {g:?}", w.kind);
}

/// Adds the planes of a packed weight: codes, scales, and for INT4 offsets (null if symmetric).
pub(crate) fn packed_planes(gpu: &Gpu, args: Args, w: &Weight) -> Args {
    check(w);
    let args = args.span(gpu, w.data).span(gpu, w.scales);
    if w.kind == WeightKind::Int4 { args.span(gpu, w.offsets) } else { args }
}

/// Writes a part as bf16 rows `pitch(part.cols)` apart to the begin of `to`.
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
    let shape = |args: Args, width: usize| {
        [part.row, part.col, part.rows, part.cols, width].iter().fold(args, |args, &n| args.u32(dim(n)))
    };
    let mut blocks = (part.rows * part.cols.div_ceil(8)).div_ceil(256);
    let plain = Args::new().span(gpu, w.data).span(gpu, to);
    let (kernel, args) = match w.kind {
        WeightKind::Int4 | WeightKind::Int8 => {
            let kernel = if w.kind == WeightKind::Int4 { "dequantize_int4" } else { "dequantize_int8" };
            let args = packed_planes(gpu, Args::new(), w).span(gpu, to);
            (kernel, shape(args, g.padded_cols()).u32(g.group.trailing_zeros()))
        }
        WeightKind::F32 => ("dequantize_f32", shape(plain, g.cols)),
        WeightKind::Bf16 => ("dequantize_bf16", shape(plain, g.cols)),
        WeightKind::Int4Simulated => {
            blocks = (part.rows * part.cols.div_ceil(g.group)).div_ceil(8);
            let asymmetric = u32::from(w.scheme == Scheme::Asymmetric);
            ("simulate_int4", shape(plain, g.cols).u32(g.group as u32).u32(asymmetric))
        }
    };
    // SAFETY: the parameters of the kernel for this kind, which reads the part, inside the planes that `check` found to be
    // as long as the shape says, and writes its rows, for which `to` has room.
    unsafe { gpu.launch(kernel, [dim(blocks), 1, 1], 256, 0, &args) };
}
