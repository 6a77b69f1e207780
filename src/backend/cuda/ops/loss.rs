//! Softmax cross-entropy.

use super::pitch;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;

/// See [`crate::backend::Backend::cross_entropy`]. A target beyond the vocabulary gives a loss that is not a number.
pub(crate) fn cross_entropy(
    gpu: &mut Gpu,
    logits: Span,
    targets: Span,
    losses: Span,
    vocab: usize,
    gradient: Option<f32>,
) {
    let rows = targets.bytes / 4;
    assert!(logits.bytes == 2 * rows * pitch(vocab) && losses.bytes == targets.bytes, "a row for each target");
    let args = Args::new().span(gpu, logits).span(gpu, targets).span(gpu, losses).u32(vocab as u32);
    let args = args.u32(u32::from(gradient.is_some())).f32(gradient.unwrap_or(0.0));
    gpu.launch("cross_entropy", [rows as u32, 1, 1], 256, 0, &args);
}
