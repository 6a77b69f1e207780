//! Softmax cross-entropy.

use super::{dim, rows_of};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::CrossEntropy;
use crate::memory::Span;

impl CrossEntropy for Cuda {
    fn cross_entropy(&mut self, logits: Span, targets: Span, losses: Span, vocab: usize, gradient: Option<f32>) {
        let gpu = &mut self.gpu;
        let rows = targets.bytes / 4;
        assert!(rows_of(logits, vocab) == rows && losses.bytes == targets.bytes, "a row for each target");
        let args = Args::new().span(gpu, logits).span(gpu, targets).span(gpu, losses).u32(dim(vocab));
        let args = args.u32(u32::from(gradient.is_some())).f32(gradient.unwrap_or(0.0));
        // SAFETY: the parameters of `cross_entropy`, of which each block stays within its row of logits, and its own target
        // and loss; a target that is not below `vocab` is not used as an index.
        unsafe { gpu.launch("cross_entropy", [dim(rows), 1, 1], 256, 0, &args) };
    }
}
