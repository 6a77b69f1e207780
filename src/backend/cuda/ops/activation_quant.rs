//! Four-bit activations.

use super::{dim, rows_of};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::ActivationQuant;
use crate::memory::Span;

impl ActivationQuant for Cuda {
    fn quantize_activations(&mut self, x: Span, features: usize) {
        let gpu = &mut self.gpu;
        let rows = rows_of(x, features);
        let args = Args::new().span(gpu, x).u32(dim(features));
        // SAFETY: the parameters of `quantize_activations`, of which each block stays within its row.
        unsafe { gpu.launch("quantize_activations", [dim(rows), 1, 1], 256, 0, &args) };
    }
}
