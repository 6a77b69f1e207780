//! Products of float32 matrices.

use super::scaling::narrow;
use super::{dim, product};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::Args;
use crate::backend::ops::{Layout, MatMul, MatMulArgs};

/// Rows and columns of a block's tile, and its threads.
const TILE: usize = 64;
const THREADS: u32 = 128;
/// Grids have fewer blocks than this in their second direction.
const MOST_BLOCKS: usize = 65_535;

impl MatMul for Cuda {
    fn matmul(&mut self, args: &MatMulArgs) {
        let &MatMulArgs { a, b, out, rows, inner, cols, alpha, beta, precision } = args;
        assert!(inner > 0, "a product without an inner dimension");
        let bytes = [product([4, rows, inner]), product([4, inner, cols]), product([4, rows, cols])];
        assert_eq!([a.0.bytes, b.0.bytes, out.bytes], bytes, "bytes of a product");
        let (down, across) = (rows.div_ceil(TILE), cols.div_ceil(TILE));
        if down * across == 0 {
            return;
        }
        let args = Args::new().span(&self.gpu, a.0).span(&self.gpu, b.0).span(&self.gpu, out);
        let args = [rows, inner, cols].into_iter().fold(args, |args, n| args.u32(dim(n)));
        let transposed = [a.1, b.1].map(|layout| u32::from(layout == Layout::Transposed));
        let args = args.u32(transposed[0]).u32(transposed[1]).f32(alpha).f32(beta).u32(narrow(precision));
        let grid = [dim(across), dim(down.min(MOST_BLOCKS)), 1];
        // SAFETY: the parameters of the kernel, which reads and writes nothing but the elements of the three matrices,
        // which are as long as the shape says.
        unsafe { self.gpu.launch("matmul", grid, THREADS, 0, &args) };
    }
}
