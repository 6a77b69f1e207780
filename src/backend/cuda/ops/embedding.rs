//! Rows of an embedding matrix by token, and their gradient.

use super::weights::{codec_kernels, kernel, planes, row_elements};
use super::{dim, product, rows_of};
use crate::backend::Weight;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::Embedding;
use crate::memory::Span;

impl Embedding for Cuda {
    fn embedding(&mut self, tokens: Span, table: &Weight, out: Span) {
        let gpu = &mut self.gpu;
        let (g, count) = (table.shape, tokens.bytes / 4);
        assert_eq!(rows_of(out, g.cols), count, "a row for each token");
        assert!(table.format.simulates().is_none(), "embedding matrices are never simulated");
        let args = planes(gpu, Args::new().span(gpu, tokens), table).span(gpu, out);
        let args = args.u32(dim(g.rows)).u32(dim(g.cols)).u32(dim(row_elements(table))).u32(g.group.trailing_zeros());
        let kernel = kernel(codec_kernels!("embedding"), table);
        // SAFETY: the parameters of the kernel for this codec, of which each block reads its own token and writes its own
        // row of out; a token that is not below the table's rows is not used as an index, and `planes` found them to be as
        // long as the table's shape says.
        unsafe { gpu.launch(kernel, [dim(count), 1, 1], 256, 0, &args) };
    }

    fn embedding_grad(&mut self, tokens: Span, dout: Span, grad: Span, features: usize) {
        let gpu = &mut self.gpu;
        let count = tokens.bytes / 4;
        assert_eq!(rows_of(dout, features), count, "a row for each token");
        let row = product([4, features]);
        assert!(grad.bytes.is_multiple_of(row), "whole rows of the gradient");
        let args = Args::new().span(gpu, tokens).span(gpu, dout).span(gpu, grad).u32(dim(count));
        let args = args.u32(dim(grad.bytes / row)).u32(dim(features));
        // SAFETY: the parameters of `embedding_grad`, which reads `count` tokens and rows of dout, and changes rows of the
        // gradient below their number: other tokens are not used as indices.
        unsafe { gpu.launch("embedding_grad", [dim(count), 1, 1], 256, 0, &args) };
    }
}
