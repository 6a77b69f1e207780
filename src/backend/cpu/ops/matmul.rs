//! Products of float32 matrices. Each task computes a block of the result in scratch of its own and writes it once; how
//! the result is cut into blocks changes no sum.

use super::linear_grad_weight::cut;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::gemm::{
    COLS, Columns, Copied, DEPTH, PITCH, ROWS, Strips, Sum, columns_to_panels, copy_rows, product, rows_to_panels,
    rows_to_strips,
};
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::ops::{Layout, MatMul, MatMulArgs, Precision};

/// A block of the result, which stays in a second-level cache with its operands, [`DEPTH`] deep.
const BLOCK: (usize, usize) = (16 * ROWS, 8 * COLS);
/// Distance of strips and of panels: a line more than a power of two, so that those written side by side do not compete
/// for the same lines of the first cache.
const STRIP: usize = DEPTH * ROWS + 16;
const PANEL: usize = DEPTH * COLS + 32;

/// Elements of the left operand, which is copied in one of two forms, of the right one, and of the sums.
const LEFT: usize = if BLOCK.0 * PITCH > BLOCK.0 / ROWS * STRIP { BLOCK.0 * PITCH } else { BLOCK.0 / ROWS * STRIP };
const RIGHT: usize = BLOCK.1 / COLS * PANEL;
const SUMS: usize = BLOCK.0 * BLOCK.1;

/// Scratch for all of this file.
pub(crate) fn need() -> Need {
    Need { shared: 0, private: LEFT + RIGHT + SUMS }
}

impl MatMul for Cpu {
    fn matmul(&mut self, args: &MatMulArgs) {
        let (isa, mut scratch, mut slices) = self.begin();
        let &MatMulArgs { rows, inner, cols, .. } = args;
        let (a, b) = (slices.read::<f32>(args.a.0), slices.read::<f32>(args.b.0));
        let out = slices.write::<f32>(args.out);
        assert!(inner > 0, "a product without an inner dimension");
        assert_eq!([a.len(), b.len(), out.len()], [rows * inner, inner * cols, rows * cols], "elements of a product");
        let (_, mut areas) = scratch.split(need());
        let (down, across) = cut((rows, cols), BLOCK);
        areas.run(TileMut::new(out, rows, cols, cols).grid(down, across), |(row, col, mut tile), area| {
            let (left, rest) = area.split_at_mut(LEFT);
            let (right, sums) = rest.split_at_mut(RIGHT);
            for from in (0..inner).step_by(DEPTH) {
                let depth = DEPTH.min(inner - from);
                pack_right(isa, b, args, (from, depth), (col, tile.cols()), right);
                let mut sums = TileMut::new(sums, tile.rows(), tile.cols(), BLOCK.1);
                let (sums, sum) =
                    (sums.part(0, 0, tile.rows(), tile.cols()), if from > 0 { Sum::Added } else { Sum::New });
                match args.a.1 {
                    Layout::Plain => {
                        copy_rows(isa, &a[row * inner..], inner, tile.rows(), from, depth, left);
                        product(isa, Copied::whole(left), right, PANEL, depth, sums, sum);
                    }
                    Layout::Transposed => {
                        let a = Columns { data: &a[from * rows..], stride: rows, from: row, count: tile.rows() };
                        rows_to_strips(isa, a, depth, STRIP, left);
                        product(isa, Strips::strips(left, STRIP), right, PANEL, depth, sums, sum);
                    }
                }
            }
            for (i, sums) in sums.chunks_exact(BLOCK.1).enumerate().take(tile.rows()) {
                write(isa, sums, tile.row(i), args.alpha, args.beta, args.precision);
            }
        });
    }
}

/// Columns `col..col + count` of the right operand, `depth` of its rows from `from` on, as panels.
fn pack_right(
    isa: Isa,
    b: &[f32],
    args: &MatMulArgs,
    (from, depth): (usize, usize),
    (col, count): (usize, usize),
    panels: &mut [f32],
) {
    let MatMulArgs { inner, cols, .. } = *args;
    match args.b.1 {
        Layout::Plain => {
            let columns = Columns { data: &b[from * cols..], stride: cols, from: col, count };
            rows_to_panels(isa, columns, depth, PANEL, panels);
        }
        Layout::Transposed => columns_to_panels(isa, &b[col * inner + from..], inner, count, depth, PANEL, panels),
    }
}

vectorized! {
    fn write(sums: &[f32], out: &mut [f32], alpha: f32, beta: f32, precision: Precision) {
        for (out, sum) in out.iter_mut().zip(sums) {
            let product = precision.round(alpha * sum);
            *out = if beta == 0.0 { product } else { precision.round(product + precision.round(beta * *out)) };
        }
    }
}
