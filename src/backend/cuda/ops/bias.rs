//! Biases of linear layers and their gradient.

use super::norm::{chunks, sum_columns};
use super::{dim, product, rows_of};
use crate::backend::Accumulate;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::Bias;
use crate::memory::Span;

impl Bias for Cuda {
    fn add_bias(&mut self, x: Span, bias: Span, width: usize) {
        let gpu = &mut self.gpu;
        let rows = rows_of(x, width);
        assert_eq!(bias.bytes, 4 * width, "bytes of a bias of {width}");
        let args = Args::new().span(gpu, x).span(gpu, bias).u32(dim(width));
        // SAFETY: the parameters of `add_bias`, which stays within one row of x for each block, and `width` biases.
        unsafe { gpu.launch("add_bias", [dim(rows), 1, 1], 256, 0, &args) };
    }

    /// The partial sums are those of a norm's gain.
    fn bias_grad(&mut self, dy: Span, grad: Span, width: usize, accumulate: Accumulate) {
        let gpu = &mut self.gpu;
        let rows = rows_of(dy, width);
        assert_eq!(grad.bytes, 4 * width, "bytes of the gradient of a bias of {width}");
        let (count, per_chunk) = chunks(rows);
        let partial = gpu.workspace().head(product([4, count, width]));
        let args = Args::new().span(gpu, dy).span(gpu, partial);
        let args = args.u32(dim(rows)).u32(dim(width)).u32(dim(per_chunk));
        let grid = [dim(width.div_ceil(256)), dim(count), 1];
        // SAFETY: the parameters of `bias_grad_partial`, which reads `rows` rows of dy and writes `width` sums for each of
        // the grid's `count` chunks; `partial` has these.
        unsafe { gpu.launch("bias_grad_partial", grid, 256, 0, &args) };
        sum_columns(gpu, partial, grad, (count, width), accumulate);
    }
}
