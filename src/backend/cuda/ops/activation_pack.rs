//! Rows in four bits.

use super::pitch;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{PACK_GROUP, packed_bytes};
use crate::memory::Span;
use crate::quant::RngKey;

/// Warps of a block, each with a group.
const WARPS: usize = 8;

fn check(x: Span, codes: Span, scales: Span, features: usize) -> usize {
    let rows = x.bytes / (2 * pitch(features));
    assert_eq!(x.bytes, 2 * rows * pitch(features), "whole rows");
    assert_eq!((codes.bytes, scales.bytes), packed_bytes(rows, features), "as many packed rows");
    rows
}

fn grid(rows: usize, features: usize) -> [u32; 3] {
    [(rows * features.div_ceil(PACK_GROUP)).div_ceil(WARPS) as u32, 1, 1]
}

/// See [`crate::backend::Backend::pack_rows`].
pub(crate) fn pack_rows(
    gpu: &mut Gpu,
    x: Span,
    codes: Span,
    scales: Span,
    features: usize,
    first: usize,
    key: &RngKey,
) {
    let rows = check(x, codes, scales, features);
    let args = Args::new().span(gpu, x).span(gpu, codes).span(gpu, scales).u32(rows as u32).u32(features as u32);
    let args = args.u64(first as u64).u64(key.seed).u32(key.step).u32(key.tensor);
    gpu.launch("pack_rows", grid(rows, features), 256, 0, &args);
}

/// See [`crate::backend::Backend::unpack_rows`].
pub(crate) fn unpack_rows(gpu: &mut Gpu, codes: Span, scales: Span, x: Span, features: usize) {
    let rows = check(x, codes, scales, features);
    let args = Args::new().span(gpu, codes).span(gpu, scales).span(gpu, x).u32(rows as u32).u32(features as u32);
    gpu.launch("unpack_rows", grid(rows, features), 256, 0, &args);
}
