//! Normally distributed numbers.

use super::dim;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::Gaussian;
use crate::memory::Span;
use crate::quant::RngKey;

impl Gaussian for Cuda {
    fn gaussian(&mut self, out: Span, key: &RngKey, deviation: f32) {
        let gpu = &mut self.gpu;
        let count = out.bytes / 4;
        assert!(count > 0 && out.bytes.is_multiple_of(4), "{} bytes of float32", out.bytes);
        let args = Args::new().span(gpu, out).u64(count as u64).u64(key.seed).u32(key.step).u32(key.tensor);
        let args = args.u32(key.usage as u32).f32(deviation);
        let blocks = count.div_ceil(4).div_ceil(256);
        // SAFETY: the parameters of the kernel, which writes `count` numbers from the beginning of `out` on.
        unsafe { gpu.launch("gaussian", [dim(blocks), 1, 1], 256, 0, &args) };
    }
}
