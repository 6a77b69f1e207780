//! SwiGLU and its gradient.

use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;

/// Elements of one block of threads.
const BLOCK: usize = 8 * 256;

/// See [`crate::backend::Backend::swiglu`].
pub(crate) fn swiglu(gpu: &mut Gpu, gate: Span, up: Span, out: Span) {
    launch(gpu, "swiglu", [gate, up, out]);
}

/// See [`crate::backend::Backend::swiglu_grad`].
pub(crate) fn swiglu_grad(gpu: &mut Gpu, gate: Span, up: Span, dout: Span) {
    launch(gpu, "swiglu_grad", [gate, up, dout]);
}

fn launch(gpu: &mut Gpu, kernel: &'static str, spans: [Span; 3]) {
    let count = spans[0].bytes / 2;
    assert!(spans.iter().all(|span| span.bytes == 2 * count), "equal lengths");
    let args = spans.iter().fold(Args::new(), |args, &span| args.span(gpu, span)).u64(count as u64);
    gpu.launch(kernel, [count.div_ceil(BLOCK) as u32, 1, 1], 256, 0, &args);
}
