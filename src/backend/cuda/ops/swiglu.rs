//! SwiGLU and its gradient.

use super::dim;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::ops::SwiGlu;
use crate::memory::Span;

/// Elements of one block of threads.
const BLOCK: usize = 8 * 256;

impl SwiGlu for Cuda {
    fn swiglu(&mut self, gate: Span, up: Span, out: Span) {
        launch(&mut self.gpu, "swiglu", [gate, up, out]);
    }

    fn swiglu_grad(&mut self, gate: Span, up: Span, dout: Span) {
        launch(&mut self.gpu, "swiglu_grad", [gate, up, dout]);
    }
}

fn launch(gpu: &mut Gpu, kernel: &'static str, spans: [Span; 3]) {
    let count = spans[0].bytes / 2;
    assert!(spans.iter().all(|span| span.bytes == 2 * count), "equal lengths");
    let args = spans.iter().fold(Args::new(), |args, &span| args.span(gpu, span)).u64(count as u64);
    // SAFETY: both kernels of swiglu.cu take three pointers and the number of elements behind each, which they stay
    // within.
    unsafe { gpu.launch(kernel, [dim(count.div_ceil(BLOCK)), 1, 1], 256, 0, &args) };
}
