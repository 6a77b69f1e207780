//! Rows or columns of a matrix divided by their root mean squares.

use super::{dim, product};
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

/// # Panics
/// If `x` is not as long as its shape says.
pub(super) fn normalize(gpu: &mut Gpu, x: Span, rows: usize, cols: usize, axis: Axis, floor: f32) {
    assert_eq!(x.bytes, product([4, rows, cols]), "bytes of a matrix");
    let args = Args::new().span(gpu, x).u32(dim(rows)).u32(dim(cols));
    if axis == Axis::Rows {
        // SAFETY: the parameters of the kernel, which stays within `rows * cols` elements of x.
        unsafe { gpu.launch("normalize_rows", [dim(rows.div_ceil(WARPS)), 1, 1], THREADS, 0, &args.f32(floor)) };
        return;
    }
    let (sums, blocks) = col_sums(gpu, x, rows, cols);
    let args = args.f32(floor).span(gpu, sums);
    // SAFETY: the parameters of the kernel, which stays within `rows * cols` elements of x and `blocks * cols` sums.
    unsafe { gpu.launch("normalize_cols", grid(cols, blocks), THREADS, 0, &args) };
}

/// A thread for each column and block of rows.
fn grid(cols: usize, blocks: usize) -> [u32; 3] {
    [dim(cols).div_ceil(THREADS), dim(blocks.min(MOST_BLOCKS)), 1]
}

/// Sums of the squares of columns over blocks of rows, `[blocks, cols]` in the workspace; and how many blocks there are.
///
/// # Panics
/// If the workspace has no room for them.
pub(super) fn col_sums(gpu: &mut Gpu, x: Span, rows: usize, cols: usize) -> (Span, usize) {
    let blocks = rows.div_ceil(ROWS);
    let sums = gpu.workspace().head(product([4, blocks, cols]));
    let args = Args::new().span(gpu, x).u32(dim(rows)).u32(dim(cols)).span(gpu, sums);
    // SAFETY: the parameters of the kernel, which stays within `rows * cols` elements of x, which the caller found to have
    // as many, and `blocks * cols` sums.
    unsafe { gpu.launch("normalize_col_sums", grid(cols, blocks), THREADS, 0, &args) };
    (sums, blocks)
}
