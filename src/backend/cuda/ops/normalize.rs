//! Rows or columns of a matrix divided by their root mean squares.

use crate::backend::Axis;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;

/// Rows that a column's sum runs over in one go, as on the CPU.
const ROWS: usize = 64;
/// Threads of a block, and rows that its warps take.
const THREADS: u32 = 256;
const WARPS: usize = 8;
/// Grids have fewer blocks than this in their second direction.
const MOST_BLOCKS: usize = 65_535;

/// See [`crate::backend::Backend::normalize`].
///
/// # Panics
/// If `x` is not as long as its shape says.
pub fn normalize(gpu: &mut Gpu, x: Span, rows: usize, cols: usize, axis: Axis, floor: f32) {
    assert_eq!(x.bytes, 4 * rows * cols, "bytes of a matrix");
    let args = Args::new().span(gpu, x).u32(rows as u32).u32(cols as u32);
    if axis == Axis::Rows {
        return gpu.launch("normalize_rows", [rows.div_ceil(WARPS) as u32, 1, 1], THREADS, 0, &args.f32(floor));
    }
    let blocks = rows.div_ceil(ROWS);
    let sums = gpu.scratch.head(4 * blocks * cols);
    let grid = [(cols as u32).div_ceil(THREADS), blocks.min(MOST_BLOCKS) as u32, 1];
    gpu.launch("normalize_col_sums", grid, THREADS, 0, &args.span(gpu, sums));
    gpu.launch("normalize_cols", grid, THREADS, 0, &args.f32(floor).span(gpu, sums));
}
