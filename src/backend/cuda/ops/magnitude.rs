//! Rows brought to other norms.

use super::norm::{chunks, sum_columns};
use super::{dim, product, rows_of};
use crate::backend::Accumulate;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::Magnitude;
use crate::memory::Span;

impl Magnitude for Cuda {
    fn row_norms(&mut self, b: Span, r: Span, squares: Span, factor: f32, norms: Span) {
        let gpu = &mut self.gpu;
        let width = norms.bytes / 4;
        let rows = rows_of(b, width);
        assert!(r.bytes == b.bytes && squares.bytes == norms.bytes, "as many rows, a square for each norm");
        let args = Args::new().span(gpu, b).span(gpu, r).span(gpu, squares).span(gpu, norms);
        let args = args.u32(dim(rows)).u32(dim(width)).f32(factor);
        // SAFETY: the parameters of `row_norms`, which reads `rows` rows of b and r and `width` squares, and writes as many
        // norms.
        unsafe { gpu.launch("row_norms", [dim(width.div_ceil(256)), 1, 1], 256, 0, &args) };
    }

    fn add_columns(&mut self, x: Span, y: Span, magnitude: Span, norms: Span, factors: [f32; 2]) {
        let gpu = &mut self.gpu;
        let width = norms.bytes / 4;
        let rows = rows_of(x, width);
        assert!(y.bytes == x.bytes && magnitude.bytes == norms.bytes, "as many rows, a magnitude for each norm");
        let args = Args::new().span(gpu, x).span(gpu, y).span(gpu, magnitude).span(gpu, norms);
        let args = args.u32(dim(width)).f32(factors[0]).f32(factors[1]);
        // SAFETY: the parameters of `add_columns`, which stays within one row of x and y for each block, and `width`
        // magnitudes and norms.
        unsafe { gpu.launch("add_columns", [dim(rows), 1, 1], 256, 0, &args) };
    }

    /// The partial sums are those of a norm's gain.
    fn magnitude_grad(&mut self, x: Span, dy: Span, norms: Span, grad: Span, accumulate: Accumulate) {
        let gpu = &mut self.gpu;
        let width = norms.bytes / 4;
        let rows = rows_of(x, width);
        assert!(dy.bytes == x.bytes && grad.bytes == norms.bytes, "as many rows, a gradient for each norm");
        let (count, per_chunk) = chunks(rows);
        let partial = gpu.workspace().head(product([4, count, width]));
        let args = Args::new().span(gpu, x).span(gpu, dy).span(gpu, norms).span(gpu, partial);
        let args = args.u32(dim(rows)).u32(dim(width)).u32(dim(per_chunk));
        let grid = [dim(width.div_ceil(256)), dim(count), 1];
        // SAFETY: the parameters of `magnitude_grad_partial`, which reads `rows` rows of x and dy and `width` norms, and
        // writes `width` sums for each of the grid's `count` chunks; `partial` has these.
        unsafe { gpu.launch("magnitude_grad_partial", grid, 256, 0, &args) };
        sum_columns(gpu, partial, grad, (count, width), accumulate);
    }
}
