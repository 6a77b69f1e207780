//! Products with a weight in bfloat16: forward, and the gradient of the input.
//!
//! The left operand is rounded into scratch that all threads share, and panels of the weight are dequantized and rounded
//! beside it, half of what float32 takes; then each thread multiplies blocks of tokens.

use super::linear::{Shape, tokens_of};
use super::weights::{PIECE, Rows};
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::bf16::{
    BLOCK, COLS, Operand, PANEL, ROWS, STRIP, WORDS, order_panel, order_strip, pair_to_panels, product, round_row,
    rows_to_strip,
};
use crate::backend::cpu::simd::gemm::columns_to_panels;
use crate::backend::cpu::simd::isa::Isa;
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::{Accumulate, Compute, MaxShapes, Weight};
use crate::memory::Span;

/// Words of panels that are packed at once (1 MiB).
const PANELS: usize = 1 << 18;
/// Words of the left operand that are rounded at once (8 MiB): 2048 tokens of the longest sums.
pub(super) const SLAB: usize = 1 << 21;
/// Numbers of a row that are rounded at once: longer sums go through memory, and weights are still read once.
const DEEPEST: usize = 2048;
/// Rows that are multiplied by one task.
const TASK: usize = 2 * ROWS;
/// What a task needs: a piece of a panel's rows as floats, and as words.
const PRIVATE: usize = COLS * PIECE + COLS * PIECE / 2;

/// Scratch for all of this file.
pub(crate) fn need(max: &MaxShapes) -> Need {
    if max.compute != Compute::Bf16 {
        return Need::default();
    }
    let widest = max.features.max(max.inputs);
    let words = widest.min(DEEPEST).div_ceil(BLOCK) * WORDS;
    let left = SLAB.min(max.tokens.next_multiple_of(ROWS) * words);
    Need { shared: left + PANELS.min(widest.next_multiple_of(COLS) * words), private: PRIVATE }
}

/// How much of the operands there is at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// Rows of the left operand.
    rows: usize,
    /// Blocks of the sum.
    blocks: usize,
    /// Columns of the right operand: whole pieces, so that none straddles two passes.
    cols: usize,
}

impl Cut {
    fn new(tokens: usize, inner: usize, cols: usize) -> Self {
        let blocks = inner.min(DEEPEST).div_ceil(BLOCK);
        let rows = (SLAB / (blocks * STRIP) * ROWS).min(tokens.next_multiple_of(ROWS));
        let wide = (PANELS / (blocks * WORDS) / PIECE * PIECE).max(PIECE);
        Self { rows, blocks, cols: wide.min(cols.next_multiple_of(COLS)) }
    }

    fn left(self) -> usize {
        self.rows * self.blocks * WORDS
    }

    fn need(self) -> Need {
        Need { shared: self.left() + self.cols * self.blocks * WORDS, private: PRIVATE }
    }
}

/// `y = x w^T` for weights that share the input, whose rounded form serves them all where it is one piece.
pub(super) fn linear_bf16(cpu: &mut Cpu, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate) {
    let (isa, mut scratch, mut slices) = cpu.begin();
    let mut left = Factor { data: slices.read::<f32>(x), operand: Operand::Value, rounded: false };
    for &(w, y) in products {
        let (w, y) = (Rows::claim(&mut slices, w), slices.write::<f32>(y));
        let (outputs, inputs) = (w.rows(), w.cols());
        let tokens = tokens_of(left.data, inputs, y, outputs);
        // A task fills a piece of one panel: COLS rows of the weight, rounded and transposed.
        let pack = |col: usize, from: usize, mut tile: TileMut<'_>, area: &mut [f32]| {
            let (width, depth) = (COLS.min(outputs - col), PIECE.min(inputs - from));
            let (floats, words) = area.split_at_mut(COLS * PIECE);
            let count = tile.cols() / COLS;
            w.prefetch(col..col + width, from, depth);
            let rows = floats.chunks_exact_mut(PIECE).zip(words.chunks_exact_mut(PIECE / 2));
            for (j, (floats, words)) in rows.enumerate().take(width) {
                w.read(isa, col + j, from, &mut floats[..depth]);
                round_row(isa, &floats[..depth], Operand::Value, &mut words[..count]);
            }
            columns_to_panels(isa, words, PIECE / 2, width, count, 0, tile.row(0));
            order_panel(isa, tile.row(0));
        };
        let shape = Shape { tokens, inner: inputs, cols: outputs, task: (1, PIECE / 2) };
        through_panels(isa, &mut scratch, &mut left, y, accumulate, shape, pack);
    }
}

/// `dx = dy w`.
pub(super) fn linear_grad_input_bf16(cpu: &mut Cpu, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate) {
    let (isa, mut scratch, mut slices) = cpu.begin();
    let (dy, w, dx) = (slices.read::<f32>(dy), Rows::claim(&mut slices, w), slices.write::<f32>(dx));
    let (outputs, inputs) = (w.rows(), w.cols());
    let tokens = tokens_of(dy, outputs, dx, inputs);
    // A task reads PIECE columns of some pairs of rows of the weight and scatters them to that many panels.
    let pack = |col: usize, from: usize, mut tile: TileMut<'_>, area: &mut [f32]| {
        let width = PIECE.min(inputs - col);
        let mut rows = area.chunks_exact_mut(PIECE).map(|row| &mut row[..width]);
        w.prefetch(from..(from + 2 * (tile.cols() / COLS)).min(outputs), col, width);
        let (Some(low), Some(high)) = (rows.next(), rows.next()) else { unreachable!("there is room for two rows") };
        for k in 0..tile.cols() / COLS {
            let row = from + 2 * k;
            let read = |row, out: &mut [f32]| if row < outputs { w.read(isa, row, col, out) } else { out.fill(0.0) };
            read(row, low);
            read(row + 1, high);
            pair_to_panels(isa, low, high, Operand::Value, k, &mut tile);
        }
        (0..tile.rows()).for_each(|p| order_panel(isa, tile.row(p)));
    };
    let shape = Shape { tokens, inner: outputs, cols: inputs, task: (PIECE / COLS, 2 * WORDS) };
    let mut left = Factor { data: dy, operand: Operand::Gradient, rounded: false };
    through_panels(isa, &mut scratch, &mut left, dx, accumulate, shape, pack);
}

/// The left operand.
struct Factor<'a> {
    data: &'a [f32],
    operand: Operand,
    /// Whether all of it lies rounded in the scratch, from a product before.
    rounded: bool,
}

/// `out = left panels`, where `pack(col, k, tile, area)` fills words of the panels from column `col` and number `k` of the sum
/// on; each row of its tile is a piece of one panel.
fn through_panels(
    isa: Isa,
    scratch: &mut Scratch<'_>,
    factor: &mut Factor<'_>,
    out: &mut [f32],
    accumulate: Accumulate,
    shape: Shape,
    pack: impl Fn(usize, usize, TileMut<'_>, &mut [f32]) + Sync,
) {
    let Shape { tokens, inner, cols, task } = shape;
    let cut = Cut::new(tokens, inner, cols);
    let (shared, mut areas) = scratch.split(cut.need());
    let (words, panels) = shared.split_at_mut(cut.left());
    for (left, out) in factor.data.chunks(cut.rows * inner).zip(out.chunks_mut(cut.rows * cols)) {
        let rows = left.len() / inner;
        for from in (0..inner).step_by(cut.blocks * BLOCK) {
            let blocks = (inner - from).div_ceil(BLOCK).min(cut.blocks);
            let goes_on = accumulate == Accumulate::Yes || from > 0;
            let count = (inner - from).min(blocks * BLOCK);
            for col in (0..cols).step_by(cut.cols) {
                let (width, panel) = (cut.cols.min(cols - col), blocks * PANEL);
                let panels = &mut panels[..width.div_ceil(COLS) * panel];
                let tasks = TileMut::new(panels, width.div_ceil(COLS), panel, panel).grid(task.0, task.1 * COLS);
                areas.run(tasks, |(p, k, tile), area| pack(col + p * COLS, from + k / COLS * 2, tile, area));
                let panels = &*panels;
                let mut whole = TileMut::new(&mut *out, rows, cols, cols);
                let tiles = whole.part(0, col, rows, width).grid(TASK, width);
                // The first task that needs rows rounds them.
                let round = col == 0 && !factor.rounded;
                areas.run(tiles.zip(words.chunks_mut(TASK * blocks * WORDS)), |((row, _, tile), words), _| {
                    if round {
                        let rows = left[row * inner..].chunks(ROWS * inner).take(tile.rows().div_ceil(ROWS));
                        for (rows, strip) in rows.zip(words.chunks_mut(blocks * STRIP)) {
                            rows_to_strip(isa, rows, (inner, from), count, factor.operand, strip);
                            order_strip(isa, strip);
                        }
                    }
                    product(isa, words, panels, blocks, tile, goes_on);
                });
            }
        }
    }
    factor.rounded = tokens <= cut.rows && inner <= cut.blocks * BLOCK;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_once_fits_its_room_and_weights_are_read_once_for_many_tokens() {
        for (tokens, inner, cols) in [(5, 1, 1), (2048, 128, 344), (2048, 11_008, 4096), (85, 49_152, 576)] {
            let cut = Cut::new(tokens, inner, cols);
            assert!(cut.left() <= SLAB && cut.cols * cut.blocks * WORDS <= PANELS, "{cut:?}");
            assert!(cut.rows >= tokens, "{tokens} tokens are one slab: {cut:?}");
            assert!(cut.rows.is_multiple_of(ROWS) && (cut.cols.is_multiple_of(PIECE) || cut.cols >= cols));
        }
    }
}
