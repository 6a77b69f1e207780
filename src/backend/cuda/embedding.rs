//! Rows of the table for each token, and their gradient.

use super::shape::{Planes, Shape};
use super::{Args, Gpu};
use crate::backend::{Largest, Weight};
use crate::memory::Span;

/// Scratch for all of this file, in bytes: a number for each row of the table.
pub fn need(largest: &Largest) -> usize {
    4 * largest.features.max(largest.parameter / largest.inputs.max(1))
}

/// `out[t] = table[tokens[t]]`; see [`crate::backend::Backend::embedding`].
///
/// # Panics
/// If lengths do not fit.
pub fn embedding(gpu: &mut Gpu, tokens: Span, table: &Weight, out: Span) {
    let count = tokens.bytes / 4;
    assert_eq!(out.bytes, 2 * count * table.geometry.cols, "a row for each token");
    if count == 0 {
        return;
    }
    let blocks = u32::try_from(count).expect("fewer than 2^32 tokens").div_ceil(4);
    let args = Args::new().span(gpu, tokens).u32(count as u32).bytes(&Planes::of(gpu, table));
    let args = args.bytes(&Shape::of(table.geometry)).span(gpu, out);
    gpu.launch("embedding", [blocks, 1, 1], 128, 0, &args);
}

/// `grad[tokens[t]] += dout[t]` in the order of t; see [`crate::backend::Backend::embedding_grad`].
///
/// # Panics
/// If lengths do not fit, or the table has more rows than the scratch was planned for.
pub fn embedding_grad(gpu: &mut Gpu, tokens: Span, dout: Span, grad: Span, features: usize) {
    let (count, rows) = (tokens.bytes / 4, grad.bytes / (4 * features));
    assert_eq!(grad.bytes, 4 * rows * features, "whole rows");
    assert_eq!(dout.bytes, 2 * count * features, "a row for each token");
    if count == 0 {
        return;
    }
    let blocks = u32::try_from(count).expect("fewer than 2^32 tokens");
    let first = gpu.scratch.head(4 * rows);
    gpu.zero(first);
    let args = Args::new().span(gpu, tokens).u32(blocks).span(gpu, first).u32(rows as u32);
    gpu.launch("embedding_first", [blocks.div_ceil(256), 1, 1], 256, 0, &args);
    let args = Args::new().span(gpu, tokens).u32(blocks).span(gpu, first).span(gpu, dout).span(gpu, grad);
    gpu.launch("embedding_grad", [blocks, 1, 1], 256, 0, &args.u32(features as u32));
}
