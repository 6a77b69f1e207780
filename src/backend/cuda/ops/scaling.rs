//! Multiplication and division of all elements by one number.

use super::adam_statistics::LEAF;
use super::dim;
use crate::backend::MaxShapes;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::ops::{Precision, Scaling};
use crate::memory::Span;

const THREADS: u32 = 256;
/// Bytes of the divisor, which lies before the sums.
const DIVISOR: usize = 8;

/// Scratch for all of this file, in bytes: a float64 sum for each leaf, and the divisor.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    DIVISOR + 8 * max.parameter.div_ceil(LEAF)
}

impl Scaling for Cuda {
    fn scale(&mut self, x: Span, factor: f32, precision: Precision) {
        let args = |gpu: &Gpu, args: Args| args.span(gpu, x).u64(x.bytes as u64 / 4).f32(factor);
        elements(&mut self.gpu, "scale_elements", x, args, precision);
    }

    fn unit_norm(&mut self, x: Span, eps: f32, precision: Precision) {
        let (gpu, count) = (&mut self.gpu, x.bytes / 4);
        let leaves = count.div_ceil(LEAF);
        if leaves == 0 {
            return;
        }
        let scratch = gpu.workspace();
        let (divisor, sums) = (scratch.head(4), scratch.part(DIVISOR, 8 * leaves));
        let args = Args::new().span(gpu, x).u64(count as u64).span(gpu, sums);
        // SAFETY: the parameters of the kernel, which reads `count` elements and writes a sum for each leaf.
        unsafe { gpu.launch("square_sums", [dim(leaves), 1, 1], THREADS, 0, &args) };
        let args = Args::new().span(gpu, sums).u32(dim(leaves)).f32(eps).u32(narrow(precision)).span(gpu, divisor);
        // SAFETY: the parameters of the kernel, which reads as many sums as there are leaves and writes one number.
        unsafe { gpu.launch("divisor_of_sums", [1, 1, 1], 32, 0, &args) };
        let args = |gpu: &Gpu, args: Args| args.span(gpu, x).u64(count as u64).span(gpu, divisor);
        elements(gpu, "divide_elements", x, args, precision);
    }
}

/// A precision as kernels take it.
pub(super) fn narrow(precision: Precision) -> u32 {
    u32::from(precision == Precision::Bf16)
}

/// Launches one of the two kernels that take a thread for each element; `args` gives all but the precision.
fn elements(gpu: &mut Gpu, kernel: &'static str, x: Span, args: impl Fn(&Gpu, Args) -> Args, precision: Precision) {
    let blocks = dim((x.bytes / 4).div_ceil(THREADS as usize));
    if blocks > 0 {
        let args = args(gpu, Args::new()).u32(narrow(precision));
        // SAFETY: the parameters of both kernels, which touch as many elements as x has, and the factor.
        unsafe { gpu.launch(kernel, [blocks, 1, 1], THREADS, 0, &args) };
    }
}
