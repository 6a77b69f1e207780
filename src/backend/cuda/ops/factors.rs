//! Sums over rows and columns, and what a direction is divided and multiplied by.

use super::normalize::col_sums;
use super::update::gate;
use super::{dim, product};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::Factors;
use crate::backend::{Axis, DivisorArgs, RelativeStepArgs, StateTensor};
use crate::memory::Span;

/// Threads of a block, and rows or runs that its warps take.
const THREADS: u32 = 256;
const WARPS: usize = 8;
/// Grids have fewer blocks than this in their second direction.
const MOST_BLOCKS: usize = 65_535;

// The sizes that the kernels assert too.
const _: () = {
    assert!(size_of::<DivisorArgs>() == 24);
    assert!(size_of::<RelativeStepArgs>() == 16);
};

/// A block for each row and `THREADS` columns.
fn grid(rows: usize, cols: usize) -> [u32; 3] {
    [dim(cols).div_ceil(THREADS), dim(rows.min(MOST_BLOCKS)), 1]
}

impl Factors for Cuda {
    fn squares(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, out: Span) {
        let gpu = &mut self.gpu;
        assert_eq!(x.bytes, product([4, rows, cols]), "bytes of a matrix");
        assert_eq!(out.bytes, 4 * if axis == Axis::Rows { rows } else { cols }, "bytes of sums");
        if axis == Axis::Rows {
            let args = Args::new().span(gpu, x).u32(dim(rows)).u32(dim(cols)).span(gpu, out);
            // SAFETY: the parameters of the kernel, which reads `rows * cols` elements and writes `rows` sums.
            unsafe { gpu.launch("squares_of_rows", [dim(rows.div_ceil(WARPS)), 1, 1], THREADS, 0, &args) };
            return;
        }
        let (sums, blocks) = col_sums(gpu, x, rows, cols);
        let args = Args::new().span(gpu, sums).u32(dim(blocks)).u32(dim(cols)).span(gpu, out);
        // SAFETY: the parameters of the kernel, which reads `blocks * cols` sums and writes `cols`.
        unsafe { gpu.launch("sums_of_blocks", [dim(cols).div_ceil(THREADS), 1, 1], THREADS, 0, &args) };
    }

    fn sums(&mut self, x: Span, length: usize, out: Span) {
        let gpu = &mut self.gpu;
        let count = x.bytes / 4;
        let runs = count.div_ceil(length);
        assert_eq!(out.bytes, 4 * runs, "bytes of sums");
        let args = Args::new().span(gpu, x).u32(dim(count)).u32(dim(length)).u32(dim(runs)).span(gpu, out);
        // SAFETY: the parameters of the kernel, which reads `count` numbers and writes `runs` sums.
        unsafe { gpu.launch("sums_of_runs", [dim(runs.div_ceil(WARPS)), 1, 1], THREADS, 0, &args) };
    }

    fn scale_axis(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, factors: Span) {
        let gpu = &mut self.gpu;
        assert_eq!(x.bytes, product([4, rows, cols]), "bytes of a matrix");
        let (kernel, count) = if axis == Axis::Rows { ("scale_by_rows", rows) } else { ("scale_by_cols", cols) };
        assert_eq!(factors.bytes, 4 * count, "bytes of factors");
        let args = Args::new().span(gpu, x).u32(dim(rows)).u32(dim(cols)).span(gpu, factors);
        // SAFETY: the parameters of both kernels, which stay within `rows * cols` elements of x and `count` factors.
        unsafe { gpu.launch(kernel, grid(rows, cols), THREADS, 0, &args) };
    }

    fn divide_by_root(&mut self, x: Span, of_rows: Span, of_cols: Span, args: &DivisorArgs) {
        let gpu = &mut self.gpu;
        let (rows, cols, run) = (args.rows as usize, args.cols as usize, args.run as usize);
        assert_eq!(x.bytes, product([4, rows, cols]), "bytes of a matrix");
        assert!(of_rows.is_none() || of_rows.bytes == 4 * rows.div_ceil(run), "moments of rows");
        assert!(of_cols.is_none() || of_cols.bytes == 4 * cols, "moments of columns");
        let parameters = Args::new().span(gpu, x).span(gpu, of_rows).span(gpu, of_cols).bytes(args);
        // SAFETY: the parameters of the kernel, which stays within `rows * cols` elements of x and, where they are not
        // null, a moment for each run of rows and for each column.
        unsafe { gpu.launch("divide_by_root", grid(rows, cols), THREADS, 0, &parameters) };
    }

    fn ratio_of_roots(&mut self, a: Span, b: Span, eps: f32) {
        let gpu = &mut self.gpu;
        assert_eq!(a.bytes, b.bytes, "a ratio of two vectors");
        let count = dim(a.bytes / 4);
        let args = Args::new().span(gpu, a).span(gpu, b).u32(count).f32(eps);
        // SAFETY: the parameters of the kernel, which stays within `count` numbers of both.
        unsafe { gpu.launch("ratio_of_roots", [count.div_ceil(THREADS), 1, 1], THREADS, 0, &args) };
    }

    fn divide_by_mean(&mut self, a: Span, b: Span, floor: f32) {
        let gpu = &mut self.gpu;
        let (count, of) = (dim(a.bytes / 4), dim(b.bytes / 4));
        let args = Args::new().span(gpu, a).u32(count).span(gpu, b).u32(of).f32(floor);
        // SAFETY: the parameters of the kernel, which stays within `count` numbers of a and `of` of b.
        unsafe { gpu.launch("divide_by_mean", [count.div_ceil(THREADS), 1, 1], THREADS, 0, &args) };
    }

    fn limit_growth(&mut self, factor: Span, kept: &StateTensor, growth: f32, eps: f32) {
        let gpu = &mut self.gpu;
        assert_eq!([factor.bytes, kept.data.bytes], [4, 8], "bytes of a factor and of what the limiter keeps");
        let args = Args::new().span(gpu, factor).span(gpu, kept.data).f32(growth).f32(eps);
        let args = args.span(gpu, gate(gpu));
        // SAFETY: the parameters of the kernel, which stays within one factor, two scalars and the verdict.
        unsafe { gpu.launch("limit_growth", [1, 1, 1], 32, 0, &args) };
    }

    fn relative_step(&mut self, factor: Span, weight: Span, args: &RelativeStepArgs) {
        let gpu = &mut self.gpu;
        assert_eq!([factor.bytes, weight.bytes], [4, 4], "bytes of a factor and of a norm");
        let parameters = Args::new().span(gpu, factor).span(gpu, weight).bytes(args);
        // SAFETY: the parameters of the kernel, which stays within one number each.
        unsafe { gpu.launch("relative_step", [1, 1, 1], 32, 0, &parameters) };
    }
}
