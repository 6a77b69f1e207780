//! Activations times a number, with elements left out, and summed in groups.

use super::norm::sum_columns;
use super::{dim, product, rows_of};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::{ActivationScaling, DropoutArgs};
use crate::backend::{Accumulate, MaxShapes};
use crate::memory::Span;

/// Warps of a block, each with a row.
const WARPS: usize = 8;

/// Workspace in bytes: a float32 sum for each row.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    4 * max.tokens
}

impl ActivationScaling for Cuda {
    fn scale_rows(&mut self, x: Span, width: usize, factor: f32, learned: Option<Span>) {
        let gpu = &mut self.gpu;
        let rows = rows_of(x, width);
        assert!(learned.is_none_or(|learned| learned.bytes == 4), "one number");
        // Without a learned scale the pointer is not read.
        let args = Args::new().span(gpu, x).span(gpu, learned.unwrap_or(x.head(0)));
        let args = args.u32(u32::from(learned.is_some())).u32(dim(rows)).u32(dim(width)).f32(factor);
        // SAFETY: the parameters of `scale_rows`, which stays within `rows` rows of x and reads one number if told that
        // there is one.
        unsafe { gpu.launch("scale_rows", [dim(rows.div_ceil(WARPS)), 1, 1], 256, 0, &args) };
    }

    fn scale_grad(&mut self, x: Span, dy: Span, width: usize, factor: f32, grad: Span, accumulate: Accumulate) {
        let gpu = &mut self.gpu;
        let rows = rows_of(x, width);
        assert!(dy.bytes == x.bytes && grad.bytes == 4, "as many rows, one number");
        let sums = gpu.workspace().head(product([4, rows]));
        let args = Args::new().span(gpu, x).span(gpu, dy).span(gpu, sums);
        let args = args.u32(dim(rows)).u32(dim(width)).f32(factor);
        // SAFETY: the parameters of `scale_grad_rows`, which reads `rows` rows of x and dy and writes a sum for each.
        unsafe { gpu.launch("scale_grad_rows", [dim(rows.div_ceil(WARPS)), 1, 1], 256, 0, &args) };
        sum_columns(gpu, sums, grad, (rows, 1), accumulate);
    }

    fn dropout(&mut self, x: Span, out: Span, width: usize, args: &DropoutArgs, accumulate: Accumulate) {
        let gpu = &mut self.gpu;
        let rows = rows_of(x, width);
        assert_eq!(out.bytes, x.bytes, "as many rows");
        let &DropoutArgs { key, first_row, probability } = args;
        let factor = args.factor();
        let args = Args::new().span(gpu, x).span(gpu, out).u32(dim(rows)).u32(dim(width)).u64(first_row as u64);
        let args = args.u64(key.seed).u32(key.step).u32(key.tensor).f32(probability).f32(factor);
        let args = args.u32(u32::from(accumulate == Accumulate::Yes));
        // SAFETY: the parameters of `dropout`, which stays within `rows` rows of x and out. The others are for random
        // numbers only.
        unsafe { gpu.launch("dropout", [dim(rows.div_ceil(WARPS)), 1, 1], 256, 0, &args) };
    }

    fn sum_groups(&mut self, x: Span, out: Span, width: usize, group: usize) {
        let gpu = &mut self.gpu;
        let rows = rows_of(x, width);
        assert!(group > 0 && rows_of(out, width.div_ceil(group)) == rows, "as many rows of sums");
        let args = Args::new().span(gpu, x).span(gpu, out).u32(dim(rows)).u32(dim(width)).u32(dim(group));
        // SAFETY: the parameters of `sum_groups`, which reads `rows` rows of x and writes as many of their groups' sums.
        unsafe { gpu.launch("sum_groups", [dim(rows.div_ceil(WARPS)), 1, 1], 256, 0, &args) };
    }

    fn sum_groups_grad(&mut self, dout: Span, dx: Span, width: usize, group: usize, accumulate: Accumulate) {
        let gpu = &mut self.gpu;
        let rows = rows_of(dx, width);
        assert!(group > 0 && rows_of(dout, width.div_ceil(group)) == rows, "as many rows of sums");
        let args = Args::new().span(gpu, dout).span(gpu, dx).u32(dim(rows)).u32(dim(width)).u32(dim(group));
        let args = args.u32(u32::from(accumulate == Accumulate::Yes));
        // SAFETY: the parameters of `sum_groups_grad`, which stays within `rows` rows of dx and of their groups' sums.
        unsafe { gpu.launch("sum_groups_grad", [dim(rows.div_ceil(WARPS)), 1, 1], 256, 0, &args) };
    }
}
