//! Four-bit activations.

use super::{dim, product, rows_of};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::{ActivationCode, ActivationQuant, QUANT_GROUP};
use crate::memory::Span;

// The numbers that `ActivationCode` in the kernel's file has.
const _: () = {
    assert!(ActivationCode::Int4 as u32 == 0 && ActivationCode::Fp4 as u32 == 1);
    assert!(ActivationCode::Int4Rows as u32 == 2 && QUANT_GROUP == 256);
};

/// Groups of a block: one for each warp.
const WARPS: usize = 8;

impl ActivationQuant for Cuda {
    fn quantize_activations(&mut self, x: Span, features: usize, sequence: usize, code: ActivationCode) {
        let gpu = &mut self.gpu;
        let rows = rows_of(x, features);
        assert!(rows.is_multiple_of(sequence), "{rows} rows are whole sequences of {sequence}");
        let run = if code.is_per_row() { 1 } else { sequence };
        let (runs, groups) = (rows / run, product([run, features]).div_ceil(QUANT_GROUP));
        let args = Args::new().span(gpu, x).u32(dim(features)).u32(dim(run)).u32(dim(runs)).u32(code as u32);
        let blocks = product([runs, groups]).div_ceil(WARPS);
        // SAFETY: the parameters of the kernel, of which each warp stays within the elements of the rows.
        unsafe { gpu.launch("quantize_activations", [dim(blocks), 1, 1], 32 * WARPS as u32, 0, &args) };
    }
}
