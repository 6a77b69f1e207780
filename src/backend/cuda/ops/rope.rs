//! Rotary position embedding.

use super::pitch;
use crate::backend::Rotation;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;

/// See [`crate::backend::Backend::rope`].
pub(crate) fn rope(gpu: &mut Gpu, x: Span, table: Span, rotation: Rotation) {
    let Rotation { heads, head_dim, queries, start, inverse } = rotation;
    let width = pitch(heads * head_dim);
    assert!(head_dim.is_multiple_of(2), "heads of {head_dim} elements have no halves");
    assert!(x.bytes.is_multiple_of(2 * queries * width), "whole sequences");
    assert!(4 * (start + queries) * head_dim <= table.bytes, "positions up to {} in the table", start + queries);
    let tokens = x.bytes / (2 * width);
    let args = Args::new().span(gpu, x).span(gpu, table).u32(heads as u32).u32(head_dim as u32 / 2);
    let args = args.u32(queries as u32).u32(start as u32).f32(if inverse { -1.0 } else { 1.0 });
    gpu.launch("rope", [tokens as u32, 1, 1], 256, 0, &args);
}
