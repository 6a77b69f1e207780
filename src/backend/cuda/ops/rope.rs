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
        let args = Args::new().span(gpu, x).span(gpu, table).span(gpu, segment_start.unwrap_or(Span::NONE));
        let sign = if inverse { -1.0 } else { 1.0 };
        let (half, wide) = (head_dim / 2, head_dim.is_multiple_of(16));
        let args = if wide { args.u32(dim(tokens)) } else { args };
        let args = args.u32(dim(heads)).u32(dim(half)).u32(dim(queries)).u32(dim(start)).f32(sign);
        let (kernel, blocks) = match wide {
            // Its threads, those behind the last included, are counted in 32 bits.
            true => ("rope_eights", dim(product([tokens, heads, half / 8]) + 255) as usize / 256),
            false => ("rope", tokens),
        };
        // SAFETY: the parameters of both kernels, `tokens` being the first's alone. Of these each thread stays within a head of
        // one of `tokens` rows of x, each block of the second within a row; both read head_dim floats of the table at a position
        // below start + queries, whatever a segment's start says.
        unsafe { gpu.launch(kernel, [dim(blocks), 1, 1], 256, 0, &args) };
    }
}
