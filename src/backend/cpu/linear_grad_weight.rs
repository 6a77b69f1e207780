//! The gradient of a linear layer's weight: a sum over all tokens of a batch.
//!
//! The operands are far longer than they are wide, so they should be read once, in long runs. A matrix whose partial
//! sums fit the scratch is cut along the tokens: each task sums its tokens for the whole matrix, and the partial
//! sums are added in order. A larger one is cut into blocks that are summed over all tokens.

use super::gemm::{COLS, Columns, DEPTH, ROWS, Strips, product, rows_to_panels, rows_to_strips};
use super::isa::{Isa, vectorized};
use super::tile::TileMut;
use super::work::{Need, Scratch};
use crate::backend::{Largest, Store};

/// Largest block: its operands, [`DEPTH`] deep, and its sums stay in a second-level cache.
const BLOCK: (usize, usize) = (16 * ROWS, 16 * COLS);
/// Tasks that are enough for the threads to share; more would only read the operands more often.
const TASKS: usize = 12;
/// Most elements of all partial sums (2 MiB).
const PARTIALS: usize = 1 << 19;
/// Most parts that the tokens are cut into.
const PARTS: usize = 8;
/// Elements of a task that adds partial sums.
const SUMMED: usize = 1 << 12;

/// Distance of strips and of panels: a line more than a power of two, or else all of them, which are written side by
/// side, would compete for the same lines of the first cache.
const STRIP: usize = DEPTH * ROWS + 16;
const PANEL: usize = DEPTH * COLS + 32;

const PRIVATE: usize = STRIP * (BLOCK.0 / ROWS) + PANEL * (BLOCK.1 / COLS);

/// Scratch for all of this file.
pub(super) fn need(largest: &Largest) -> Need {
    Need { shared: PARTIALS.min(PARTS * largest.parameter), private: PRIVATE }
}

/// How a gradient is cut; by its shape alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    rows: usize,
    cols: usize,
    /// Tokens of a part, whole runs of [`DEPTH`].
    tokens: usize,
    parts: usize,
}

fn cut(outputs: usize, inputs: usize, tokens: usize) -> Cut {
    let runs = tokens.div_ceil(DEPTH).max(1);
    let most = (PARTIALS / (outputs * inputs)).clamp(1, PARTS);
    let tokens = runs.div_ceil(most) * DEPTH;
    let parts = (runs * DEPTH).div_ceil(tokens);
    let (mut rows, mut cols) = BLOCK;
    let few = |rows: usize, cols: usize| outputs.div_ceil(rows) * inputs.div_ceil(cols) * parts < TASKS;
    while parts == 1 && few(rows, cols) && cols > 2 * COLS {
        (rows, cols) = (if rows > 4 * ROWS { rows / 2 } else { rows }, cols / 2);
    }
    Cut { rows, cols, tokens, parts }
}

/// `grad[O, I] = dy[T, O]^T x[T, I]`.
pub(super) fn linear_grad_weight(
    isa: Isa,
    mut scratch: Scratch<'_>,
    dy: &[f32],
    x: &[f32],
    grad: &mut [f32],
    (outputs, inputs): (usize, usize),
    store: Store,
) {
    let len = outputs * inputs;
    let tokens = dy.len() / outputs;
    assert_eq!([dy.len(), x.len()], [tokens * outputs, tokens * inputs], "whole rows, as many of both");
    assert!(grad.len() == len && tokens > 0, "the gradient's elements, and a token");
    let cut = cut(outputs, inputs, tokens);
    let shared = if cut.parts > 1 { cut.parts * len } else { 0 };
    let (partial, mut areas) = scratch.split(Need { shared, private: PRIVATE });
    let (sums, accumulate) =
        if cut.parts > 1 { (&mut *partial, false) } else { (&mut *grad, store == Store::Accumulate) };
    let tasks = sums.chunks_exact_mut(len).enumerate().flat_map(|(part, sums)| {
        let blocks = TileMut::new(sums, outputs, inputs, inputs).grid(cut.rows, cut.cols);
        blocks.map(move |(row, col, tile)| (part * cut.tokens, row, col, tile))
    });
    areas.run(tasks, |(first, row, col, tile), area| {
        let last = (first + cut.tokens).min(tokens);
        let dy = &dy[first * outputs..last * outputs];
        let x = &x[first * inputs..last * inputs];
        let dy = Columns { data: dy, stride: outputs, from: row, count: tile.rows() };
        let x = Columns { data: x, stride: inputs, from: col, count: tile.cols() };
        block(isa, dy, x, tile, accumulate, area);
    });
    if cut.parts > 1 {
        let tasks = grad.chunks_mut(SUMMED).enumerate();
        areas.run(tasks, |(i, grad), _| add_partials(isa, partial, len, i * SUMMED, grad, store));
    }
}

fn block(isa: Isa, dy: Columns<'_>, x: Columns<'_>, mut tile: TileMut<'_>, accumulate: bool, area: &mut [f32]) {
    let (strips, panels) = area.split_at_mut(STRIP * BLOCK.0 / ROWS);
    for from in (0..x.data.len() / x.stride).step_by(DEPTH) {
        let (dy, x) = (dy.skip(from), x.skip(from));
        let depth = DEPTH.min(x.data.len() / x.stride);
        rows_to_strips(isa, dy, depth, STRIP, strips);
        rows_to_panels(isa, x, depth, PANEL, panels);
        let tile = tile.part(0, 0, dy.count, x.count);
        product(isa, Strips::strips(strips, STRIP), panels, PANEL, depth, tile, accumulate || from > 0);
    }
}

vectorized! {
    /// Elements `from..` of `grad` from all parts, each `len` elements, in order.
    fn add_partials(partial: &[f32], len: usize, from: usize, grad: &mut [f32], store: Store) {
        for (part, sums) in partial.chunks_exact(len).enumerate() {
            let sums = &sums[from..][..grad.len()];
            if part == 0 && store == Store::Overwrite {
                grad.copy_from_slice(sums);
            } else {
                for (grad, &sum) in grad.iter_mut().zip(sums) {
                    *grad += sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_matrices_are_cut_along_the_tokens_and_large_ones_never() {
        assert_eq!(cut(128, 128, 2048), Cut { rows: 192, cols: 512, tokens: 256, parts: 8 });
        assert_eq!(cut(344, 128, 2050), Cut { rows: 192, cols: 512, tokens: 512, parts: 5 });
        assert_eq!(cut(512, 512, 4096).parts, 2);
        assert_eq!(cut(1024, 2736, 4096).parts, 1);
        // No part is empty, none is forgotten, whatever the number of tokens.
        for tokens in 1..5000 {
            let Cut { tokens: each, parts, .. } = cut(200, 200, tokens);
            assert!(parts * each >= tokens && (parts - 1) * each < tokens, "{parts} parts of {each} for {tokens}");
        }
    }
}
