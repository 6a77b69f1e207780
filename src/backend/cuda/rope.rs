//! Rotary position embedding.

use super::{Args, Gpu};
use crate::backend::Rotation;
use crate::memory::Span;

/// See [`crate::backend::Backend::rope`].
pub(super) fn rope(gpu: &mut Gpu, x: Span, table: Span, rotation: Rotation) {
    let Rotation { heads, head_dim, queries, start, inverse } = rotation;
    assert!(head_dim.is_multiple_of(2), "heads of {head_dim} elements have no halves");
    assert!(x.bytes.is_multiple_of(2 * queries * heads * head_dim), "whole sequences");
    assert!(4 * (start + queries) * head_dim <= table.bytes, "positions up to {} in the table", start + queries);
    let pairs = x.bytes / 4;
    let args = Args::new().span(gpu, x).span(gpu, table).u64(pairs as u64).u32(heads as u32);
    let args = args.u32(head_dim as u32 / 2).u32(queries as u32).u32(start as u32);
    let args = args.f32(if inverse { -1.0 } else { 1.0 });
    gpu.launch("rope", [pairs.div_ceil(256) as u32, 1, 1], 256, 0, &args);
}
