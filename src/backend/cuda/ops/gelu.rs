//! GELU and its gradient.

use super::dim;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::ops::Gelu;
use crate::memory::Span;

impl Gelu for Cuda {
    fn gelu(&mut self, x: Span, out: Span) {
        launch(&mut self.gpu, "gelu", x, out);
    }

    fn gelu_grad(&mut self, x: Span, dout: Span) {
        launch(&mut self.gpu, "gelu_grad", x, dout);
    }
}

fn launch(gpu: &mut Gpu, kernel: &'static str, x: Span, out: Span) {
    let count = x.bytes / 2;
    assert!(x.bytes == 2 * count && out.bytes == x.bytes, "equal lengths");
    let args = Args::new().span(gpu, x).span(gpu, out).u64(count as u64);
    // SAFETY: both kernels of gelu.cu take two pointers and the number of elements behind each, which they stay within.
    unsafe { gpu.launch(kernel, [dim(count.div_ceil(256)), 1, 1], 256, 0, &args) };
}
