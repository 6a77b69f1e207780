//! Rows of a table by token, and their gradient.

use super::pitch;
use super::weights::{check, packed_planes};
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{Weight, WeightKind};
use crate::memory::Span;

/// See [`crate::backend::Backend::embedding`]. A token beyond the table gives a row that is not a number.
pub(crate) fn embedding(gpu: &mut Gpu, tokens: Span, table: &Weight, out: Span) {
    let (g, count) = (table.shape, tokens.bytes / 4);
    check(table);
    assert_eq!(out.bytes, 2 * count * pitch(g.cols), "a row for each token");
    let shape = |args: Args| args.u32(g.rows as u32).u32(g.cols as u32);
    let args = Args::new().span(gpu, tokens);
    let (kernel, args) = match table.kind {
        WeightKind::Int4 | WeightKind::Int8 => {
            let kernel = if table.kind == WeightKind::Int4 { "embedding_int4" } else { "embedding_int8" };
            let args = shape(packed_planes(gpu, args, table).span(gpu, out));
            (kernel, args.u32(g.padded_cols() as u32).u32(g.group.trailing_zeros()))
        }
        WeightKind::F32 => ("embedding_f32", shape(args.span(gpu, table.data).span(gpu, out))),
        WeightKind::Bf16 => ("embedding_bf16", shape(args.span(gpu, table.data).span(gpu, out))),
        WeightKind::Int4Simulated => panic!("tables are never simulated"),
    };
    gpu.launch(kernel, [count as u32, 1, 1], 256, 0, &args);
}

/// See [`crate::backend::Backend::embedding_grad`].
pub(crate) fn embedding_grad(gpu: &mut Gpu, tokens: Span, dout: Span, grad: Span, features: usize) {
    let count = tokens.bytes / 4;
    assert!(dout.bytes == 2 * count * pitch(features) && grad.bytes.is_multiple_of(4 * features), "whole rows");
    let args = Args::new().span(gpu, tokens).span(gpu, dout).span(gpu, grad).u32(count as u32);
    let args = args.u32((grad.bytes / (4 * features)) as u32).u32(features as u32);
    gpu.launch("embedding_grad", [count as u32, 1, 1], 256, 0, &args);
}
