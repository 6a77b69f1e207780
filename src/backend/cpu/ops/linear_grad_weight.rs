//! The gradient of a linear layer's weight: a sum over all tokens of a batch.
//!
//! Every element is one chain of sums in the order of the tokens, and [`Accumulate::Yes`] continues it: a
//! batch that is fed in any number of parts gives the bits of the whole. Partial sums of ranges of tokens, which would
//! read the operands of small matrices less often, would tie the bits to the ranges.

use crate::backend::Accumulate;
use crate::backend::cpu::simd::gemm::{
    COLS, Columns, DEPTH, ROWS, Strips, Sum, product, rows_to_panels, rows_to_strips,
};
use crate::backend::cpu::simd::isa::Isa;
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::cpu::simd::tile::TileMut;

/// Largest block: its operands, [`DEPTH`] deep, and its sums stay in a second-level cache.
const BLOCK: (usize, usize) = (16 * ROWS, 16 * COLS);
/// Tasks that are enough for the threads to share; more would only read the operands more often.
pub(super) const TASKS: usize = 12;
/// Distance of strips and of panels: a line more than a power of two, or else all of them, which are written side by
/// side, would compete for the same lines of the first cache.
const STRIP: usize = DEPTH * ROWS + 16;
const PANEL: usize = DEPTH * COLS + 32;

const PRIVATE: usize = STRIP * (BLOCK.0 / ROWS) + PANEL * (BLOCK.1 / COLS);

/// Scratch for all of this file.
pub(crate) fn need() -> Need {
    Need { shared: 0, private: PRIVATE }
}

/// Rows and columns of a task, at most those of `block`, by the result's shape alone.
fn cut(shape: (usize, usize), block: (usize, usize)) -> (usize, usize) {
    let (mut rows, mut cols) = block;
    let few = |rows: usize, cols: usize| shape.0.div_ceil(rows) * shape.1.div_ceil(cols) < TASKS;
    while few(rows, cols) && cols > 2 * COLS {
        (rows, cols) = (if rows > 4 * ROWS { rows / 2 } else { rows }, cols / 2);
    }
    (rows, cols)
}

/// `grad[O, I] = dy[T, O]^T x[T, I]`.
pub(crate) fn linear_grad_weight(
    isa: Isa,
    mut scratch: Scratch<'_>,
    dy: &[f32],
    x: &[f32],
    grad: &mut [f32],
    (outputs, inputs): (usize, usize),
    accumulate: Accumulate,
) {
    let tokens = dy.len() / outputs;
    assert_eq!([dy.len(), x.len()], [tokens * outputs, tokens * inputs], "whole rows, as many of both");
    assert!(grad.len() == outputs * inputs && tokens > 0, "the gradient's elements, and a token");
    let sum = if accumulate == Accumulate::Yes { Sum::Continued } else { Sum::New };
    let (rows, cols) = cut((outputs, inputs), BLOCK);
    let (_, mut areas) = scratch.split(need());
    let tasks = TileMut::new(grad, outputs, inputs, inputs).grid(rows, cols);
    areas.run(tasks, |(row, col, tile), area| {
        let dy = Columns { data: dy, stride: outputs, from: row, count: tile.rows() };
        let x = Columns { data: x, stride: inputs, from: col, count: tile.cols() };
        block(isa, dy, x, tile, sum, area);
    });
}

fn block(isa: Isa, dy: Columns<'_>, x: Columns<'_>, mut tile: TileMut<'_>, sum: Sum, area: &mut [f32]) {
    let (strips, panels) = area.split_at_mut(STRIP * BLOCK.0 / ROWS);
    for from in (0..x.data.len() / x.stride).step_by(DEPTH) {
        let (dy, x) = (dy.skip(from), x.skip(from));
        let depth = DEPTH.min(x.data.len() / x.stride);
        rows_to_strips(isa, dy, depth, STRIP, strips);
        rows_to_panels(isa, x, depth, PANEL, panels);
        let tile = tile.part(0, 0, dy.count, x.count);
        let sum = if from > 0 { Sum::Continued } else { sum };
        product(isa, Strips::strips(strips, STRIP), panels, PANEL, depth, tile, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_matrices_are_cut_into_enough_tasks() {
        assert_eq!(cut((128, 128), BLOCK), (48, 64));
        assert_eq!(cut((1024, 2736), BLOCK), BLOCK);
    }
}
