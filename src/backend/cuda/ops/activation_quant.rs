//! Four-bit activations.

use super::pitch;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;

/// See [`crate::backend::Backend::quantize_activations`].
pub(crate) fn quantize_activations(gpu: &mut Gpu, x: Span, features: usize) {
    assert!(x.bytes.is_multiple_of(2 * pitch(features)), "whole rows");
    let args = Args::new().span(gpu, x).u32(features as u32);
    gpu.launch("quantize_activations", [(x.bytes / (2 * pitch(features))) as u32, 1, 1], 256, 0, &args);
}
