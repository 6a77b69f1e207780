//! The gradient of a linear layer's weight: a sum over all tokens of a batch.
//!
//! Every element is one chain of sums in the order of the tokens, and [`Accumulate::Yes`] continues it: a
//! batch that is fed in any number of parts gives the bits of the whole. Partial sums of ranges of tokens, which would
//! read the operands of small matrices less often, would tie the bits to the ranges.
//!
//! Operands are packed, though few tiles read those of a small matrix: kernels that read their rows where they lie were no
//! faster at 128 columns, whose lines compete for the same places of the first cache, and took 1.5 times as long at 1024.
//! Packed once, into scratch that threads share, they gained nothing either, though a task's operands are packed once for every
//! task that reads them here: what one core has written the other has to fetch.

use crate::backend::Accumulate;
use crate::backend::cpu::simd::gemm::{
    COLS, Columns, DEPTH, ROWS, Strips, Sum, product, rows_to_panels, rows_to_strips,
};
use crate::backend::cpu::simd::isa::Isa;
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::cpu::simd::tile::TileMut;

/// Largest block: its operands, [`DEPTH`] deep, and its sums stay in a second-level cache.
const BLOCK: (usize, usize) = (16 * ROWS, 16 * COLS);
/// Distance of strips and of panels: a line more than a power of two, or else all of them, which are written side by
/// side, would compete for the same lines of the first cache.
const STRIP: usize = DEPTH * ROWS + 16;
const PANEL: usize = DEPTH * COLS + 32;

const PRIVATE: usize = STRIP * (BLOCK.0 / ROWS) + PANEL * (BLOCK.1 / COLS);

/// Scratch for all of this file.
pub(crate) fn need() -> Need {
    Need { shared: 0, private: PRIVATE }
}

/// What it costs to bring an element of an operand into a task's order, in products: 1.2 cycles against 0.04, by the
/// samples of a profile with AVX-512 and 2048 tokens.
const PACKING: usize = 30;

/// Tasks for each thread at least: one that is held up leaves some of its own to the others.
const EACH: usize = 2;

/// Rows and columns of a task: those with which the threads are done first. Operands are packed anew for every task that
/// reads them, so few large tasks take less work than many small ones. Where a sum is cut does not show in its bits.
fn cut((outputs, inputs): (usize, usize), threads: usize) -> (usize, usize) {
    // More parts than these help no thread.
    let sizes = |length: usize, unit: usize, most: usize| {
        let (few, many) = (length.div_ceil(most), length.div_ceil(unit));
        (few..=many.min(few + threads.max(16))).map(move |parts| length.div_ceil(parts).next_multiple_of(unit))
    };
    let wanted = if threads == 1 { 1 } else { EACH * threads };
    let cost = |&(rows, cols): &(usize, usize)| {
        let tasks = outputs.div_ceil(rows) * inputs.div_ceil(cols);
        let missing = wanted.saturating_sub(tasks);
        (missing, tasks.div_ceil(threads) * (rows * cols + PACKING * (rows + cols)))
    };
    let rows = sizes(outputs, ROWS, BLOCK.0);
    let all = rows.flat_map(|rows| sizes(inputs, COLS, BLOCK.1).map(move |cols| (rows, cols)));
    all.min_by_key(cost).expect("a matrix has a row and a column")
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
    let (rows, cols) = cut((outputs, inputs), scratch.threads());
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
    fn every_thread_has_tasks_and_no_task_exceeds_its_scratch() {
        const SHAPES: [(usize, usize); 8] =
            [(1, 1), (12, 32), (128, 128), (344, 128), (128, 344), (256, 40), (1024, 2736), (4096, 11_008)];
        for (outputs, inputs) in SHAPES {
            let most = outputs.div_ceil(ROWS) * inputs.div_ceil(COLS);
            for threads in [1, 2, 3, 7, 64] {
                let (rows, cols) = cut((outputs, inputs), threads);
                assert!(rows <= BLOCK.0 && cols <= BLOCK.1 && rows.is_multiple_of(ROWS) && cols.is_multiple_of(COLS));
                let tasks = outputs.div_ceil(rows) * inputs.div_ceil(cols);
                assert!(tasks >= threads.min(most), "{outputs} x {inputs}: {tasks} tasks for {threads} threads");
            }
        }
    }

    #[test]
    fn small_matrices_are_cut_as_rarely_as_the_threads_allow() {
        assert_eq!(cut((128, 128), 1), (132, 128));
        let tasks = |shape: (usize, usize), threads| {
            let (rows, cols) = cut(shape, threads);
            shape.0.div_ceil(rows) * shape.1.div_ceil(cols)
        };
        for shape in [(128, 128), (344, 128), (128, 344)] {
            assert_eq!(tasks(shape, 2), EACH * 2, "{shape:?}");
        }
    }
}
