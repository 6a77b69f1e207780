//! Activations kept in four bits.

use super::{dim, product, rows_of};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::ActivationPack;
use crate::backend::{PACK_GROUP, packed_bytes};
use crate::memory::Span;
use crate::quant::RngKey;

/// Warps of a block, each with a group.
const WARPS: usize = 8;

/// How many rows there are.
///
/// # Panics
/// If a span has another size.
fn check(x: Span, codes: Span, scales: Span, features: usize) -> usize {
    let rows = rows_of(x, features);
    assert_eq!((codes.bytes, scales.bytes), packed_bytes(rows, features), "as many packed rows");
    rows
}

fn grid(rows: usize, features: usize) -> [u32; 3] {
    [dim(product([rows, features.div_ceil(PACK_GROUP)]).div_ceil(WARPS)), 1, 1]
}

impl ActivationPack for Cuda {
    fn pack_rows(&mut self, x: Span, codes: Span, scales: Span, features: usize, first_row: usize, key: &RngKey) {
        let gpu = &mut self.gpu;
        let rows = check(x, codes, scales, features);
        let args = Args::new().span(gpu, x).span(gpu, codes).span(gpu, scales).u32(dim(rows)).u32(dim(features));
        let args = args.u64(first_row as u64).u64(key.seed).u32(key.step).u32(key.tensor);
        // SAFETY: the parameters of `pack_rows`, which stays within `rows` rows of x and the groups that these have; codes
        // and scales have exactly them. The others are for random numbers only.
        unsafe { gpu.launch("pack_rows", grid(rows, features), 256, 0, &args) };
    }

    fn unpack_rows(&mut self, codes: Span, scales: Span, x: Span, features: usize) {
        let gpu = &mut self.gpu;
        let rows = check(x, codes, scales, features);
        let args = Args::new().span(gpu, codes).span(gpu, scales).span(gpu, x).u32(dim(rows)).u32(dim(features));
        // SAFETY: the parameters of `unpack_rows`, which stays within `rows` rows of x and the groups that these have;
        // codes and scales have exactly them.
        unsafe { gpu.launch("unpack_rows", grid(rows, features), 256, 0, &args) };
    }
}
