//! Rotary position embedding.

use super::{dim, product, rows_of};
use crate::backend::Rotation;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::Rope;
use crate::memory::Span;

impl Rope for Cuda {
    fn rope(&mut self, x: Span, table: Span, rotation: Rotation, segment_start: Option<Span>) {
        let gpu = &mut self.gpu;
        let Rotation { heads, head_dim, queries, start, inverse } = rotation;
        let tokens = rows_of(x, product([heads, head_dim]));
        assert!(head_dim.is_multiple_of(2), "heads of {head_dim} elements have no halves");
        assert!(tokens.is_multiple_of(queries), "whole sequences");
        let positions = dim(start) as usize + dim(queries) as usize;
        assert!(product([4, positions, head_dim]) <= table.bytes, "positions up to {positions} in the table");
        assert!(
            segment_start.is_none_or(|start| start.bytes == product([4, tokens])),
            "a segment's start for each token"
        );
        let args = Args::new()
            .span(gpu, x)
            .span(gpu, table)
            .span(gpu, segment_start.unwrap_or(Span::NONE))
            .u32(dim(heads))
            .u32(dim(head_dim) / 2);
        let args = args.u32(dim(queries)).u32(dim(start)).f32(if inverse { -1.0 } else { 1.0 });
        // SAFETY: the parameters of `rope`, of which each block stays within a row of x, of heads x head_dim elements, and
        // reads head_dim floats of the table at a position below start + queries, whatever a segment's start says.
        unsafe { gpu.launch("rope", [dim(tokens), 1, 1], 256, 0, &args) };
    }
}
