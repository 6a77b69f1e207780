//! Four-bit activations.

use super::{Args, Gpu};
use crate::memory::Span;

/// Elements of a group.
const GROUP: usize = 256;

/// See [`crate::backend::Backend::quantize_activations`].
pub(super) fn quantize_activations(gpu: &mut Gpu, x: Span, features: usize) {
    assert!(x.bytes.is_multiple_of(2 * features), "whole rows");
    let per_row = features.div_ceil(GROUP);
    let groups = x.bytes / (2 * features) * per_row;
    let args = Args::new().span(gpu, x).u64(groups as u64).u32(per_row as u32).u32(features as u32);
    gpu.launch("quantize_activations", [groups.div_ceil(8) as u32, 1, 1], 256, 0, &args);
}
