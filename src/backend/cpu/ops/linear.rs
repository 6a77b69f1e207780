//! Products with a weight: forward, and the gradients.
//!
//! Panels of the weight are dequantized into scratch that all threads share, then each thread multiplies blocks of
//! tokens with them. A small batch (sampling) is computed as dot products with rows dequantized one at a time.

use super::linear_bf16::{linear_bf16, linear_grad_input_bf16};
use super::linear_fp8::linear_fp8;
use super::linear_grad_int8::{linear_grad_input_int8, linear_grad_weight_int8};
use super::linear_grad_weight::linear_grad_weight;
use super::linear_grad_weight_bf16::linear_grad_weight_bf16;
use super::linear_int8::linear_int8;
use super::weights::{PIECE, Rows};
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::gemm::{
    COLS, Copied, DEPTH, PITCH, ROWS, Sum, columns_to_panels, copy_rows, product, row_to_panels,
};
use crate::backend::cpu::simd::isa::{Isa, madd, vectorized};
use crate::backend::cpu::simd::reduce::sum_of;
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::ops::Linear;
use crate::backend::{Accumulate, MaxShapes, Memory, RowDraws, Weight};
use crate::memory::Span;

/// Tokens of a block: a few strips, so that two threads and sixteen find enough of them.
pub(super) const BLOCK: usize = 4 * ROWS;
/// Up to this many tokens are handled row by row.
pub(super) const SMALL_BATCH: usize = 4;
/// Elements of the shared panels (1 MiB): with a block of tokens they stay in a second-level cache.
pub(super) const PANELS: usize = 1 << 18;
/// Deepest panel.
const DEEPEST: usize = 1024;

/// Scratch for all of this file.
pub(crate) fn need(max: &MaxShapes) -> Need {
    let widest = max.features.max(max.inputs);
    let forward = BLOCK * PITCH;
    let pack = COLS * PIECE;
    Need { shared: PANELS.min(widest * widest.next_multiple_of(COLS)), private: forward.max(pack) }
}

impl Linear for Cpu {
    fn linear(&mut self, x: Span, w: &Weight, y: Span, accumulate: Accumulate) {
        let (isa, scratch, mut slices) = self.begin();
        let (x, w, y) = (slices.read::<f32>(x), Rows::claim(&mut slices, w), slices.write::<f32>(y));
        let tokens = tokens_of(x, w.cols(), y, w.rows());
        multiply(isa, scratch, x, &w, y, accumulate, tokens <= SMALL_BATCH);
    }

    fn linear_onto(&mut self, x: Span, w: &Weight, onto: Span, y: Span) {
        self.copy(onto, y);
        self.linear(x, w, y, Accumulate::Yes);
    }

    fn linear_bf16(&mut self, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate) {
        linear_bf16(self, x, products, accumulate);
    }

    fn linear_int8(&mut self, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate) {
        linear_int8(self, x, products, accumulate);
    }

    fn linear_fp8(&mut self, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate) {
        for &(w, y) in products {
            match w.format.codec().has_e4m3_codes() {
                false => self.linear(x, w, y, accumulate),
                true => linear_fp8(self, x, w, y, accumulate),
            }
        }
    }

    fn linear_grad_input(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate) {
        let (isa, mut scratch, mut slices) = self.begin();
        let (dy, w, dx) = (slices.read::<f32>(dy), Rows::claim(&mut slices, w), slices.write::<f32>(dx));
        let (outputs, inputs) = (w.rows(), w.cols());
        let tokens = tokens_of(dy, outputs, dx, inputs);
        // A task reads PIECE columns of some rows of the weight and scatters them to that many panels.
        let pack = |col: usize, from: usize, mut tile: TileMut<'_>, area: &mut [f32]| {
            let (width, depth) = (PIECE.min(inputs - col), tile.cols() / COLS);
            w.prefetch(from..from + depth, col, width);
            for k in 0..depth {
                w.read(isa, from + k, col, &mut area[..width]);
                row_to_panels(&area[..width], k, &mut tile);
            }
        };
        let shape = Shape { tokens, inner: outputs, cols: inputs, task: (PIECE / COLS, 32) };
        through_panels(isa, &mut scratch, dy, dx, accumulate, shape, pack);
    }

    fn linear_grad_weight(&mut self, dy: Span, x: Span, grad: Span, rows: usize, cols: usize, accumulate: Accumulate) {
        let (isa, scratch, mut slices) = self.begin();
        let (dy, x, grad) = (slices.read(dy), slices.read(x), slices.write(grad));
        linear_grad_weight(isa, scratch, dy, x, grad, (rows, cols), accumulate);
    }

    fn linear_grad_input_bf16(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate) {
        linear_grad_input_bf16(self, dy, w, dx, accumulate);
    }

    fn linear_grad_weight_bf16(
        &mut self,
        operands: [Span; 3],
        shape: (usize, usize),
        accumulate: Accumulate,
        sequence: usize,
    ) {
        linear_grad_weight_bf16(self, operands, shape, accumulate, sequence);
    }

    fn linear_grad_input_int8(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate, draws: &RowDraws) {
        linear_grad_input_int8(self, dy, w, dx, accumulate, draws);
    }

    fn linear_grad_weight_int8(
        &mut self,
        operands: [Span; 3],
        shape: (usize, usize),
        accumulate: Accumulate,
        sequence: usize,
        draws: &RowDraws,
    ) {
        linear_grad_weight_int8(self, operands, shape, accumulate, sequence, draws);
    }
}

/// `y = x w^T` of some rows of a batch; `few`: whether the batch has so few that they are handled row by row.
pub(super) fn multiply(
    isa: Isa,
    mut scratch: Scratch<'_>,
    x: &[f32],
    w: &Rows<'_>,
    y: &mut [f32],
    accumulate: Accumulate,
    few: bool,
) {
    if few {
        return small_batch(isa, scratch, x, w, y, accumulate);
    }
    let (outputs, inputs) = (w.rows(), w.cols());
    // A task fills the rows k..k + PIECE of one panel: COLS rows of the weight, transposed.
    let pack = |col: usize, from: usize, mut tile: TileMut<'_>, area: &mut [f32]| {
        let (width, depth) = (COLS.min(outputs - col), tile.cols() / COLS);
        w.prefetch(col..col + width, from, depth);
        for (j, row) in area.chunks_exact_mut(PIECE).take(width).enumerate() {
            w.read(isa, col + j, from, &mut row[..depth]);
        }
        columns_to_panels(isa, area, PIECE, width, depth, 0, tile.row(0));
    };
    let shape = Shape { tokens: x.len() / inputs, inner: inputs, cols: outputs, task: (1, PIECE) };
    through_panels(isa, &mut scratch, x, y, accumulate, shape, pack);
}

pub(super) fn tokens_of(input: &[f32], input_width: usize, output: &[f32], output_width: usize) -> usize {
    let tokens = input.len() / input_width;
    assert_eq!(input.len(), tokens * input_width, "whole rows of the input");
    assert_eq!(output.len(), tokens * output_width, "as many rows of the output");
    tokens
}

/// A product of a left operand's rows with panels.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub tokens: usize,
    /// Columns of the left operand, summed over.
    pub inner: usize,
    /// Columns of the output.
    pub cols: usize,
    /// What one task fills: so many panels, so many of their rows.
    pub task: (usize, usize),
}

/// `out = left panels`, where `pack(col, k, tile, area)` fills rows `k..` of the panels from column `col` on;
/// each row of its tile is a piece of one panel.
fn through_panels(
    isa: Isa,
    scratch: &mut Scratch<'_>,
    left: &[f32],
    out: &mut [f32],
    accumulate: Accumulate,
    shape: Shape,
    pack: impl Fn(usize, usize, TileMut<'_>, &mut [f32]) + Sync,
) {
    let Shape { tokens, inner, cols, task } = shape;
    let deep = inner.min(DEEPEST);
    // A multiple of PIECE, so that a piece of a row never straddles two blocks of columns.
    let wide = (PANELS / deep / PIECE * PIECE).min(cols.next_multiple_of(COLS));
    let (panels, mut areas) = scratch.split(Need { shared: wide * deep, private: (BLOCK * PITCH).max(COLS * PIECE) });
    for col in (0..cols).step_by(wide) {
        let width = wide.min(cols - col);
        for from in (0..inner).step_by(deep) {
            let depth = deep.min(inner - from);
            let panel = depth * COLS;
            let count = width.div_ceil(COLS);
            let tasks = TileMut::new(&mut panels[..count * panel], count, panel, panel).grid(task.0, task.1 * COLS);
            areas.run(tasks, |(p, k, tile), area| pack(col + p * COLS, from + k / COLS, tile, area));

            let sum = if accumulate == Accumulate::Yes || from > 0 { Sum::Added } else { Sum::New };
            let mut whole = TileMut::new(out, tokens, cols, cols);
            let wide = block_columns(tokens, width, areas.count());
            let blocks = whole.part(0, col, tokens, width).grid(BLOCK, wide);
            areas.run(blocks, |(row, col, mut tile), area| {
                let (rows, width) = (tile.rows(), tile.cols());
                for k in (0..depth).step_by(DEPTH) {
                    let run = DEPTH.min(depth - k);
                    copy_rows(isa, &left[row * inner..], inner, rows, from + k, run, area);
                    let (panels, tile) = (&panels[col / COLS * panel + k * COLS..], tile.part(0, 0, rows, width));
                    let sum = if k > 0 { Sum::Added } else { sum };
                    product(isa, Copied::whole(area), panels, panel, run, tile, sum);
                }
            });
        }
    }
}

/// Columns of a block. Few blocks of whole width would leave the last threads waiting for the first: 256 tokens are six blocks,
/// of which two threads have three each though one of them is short.
fn block_columns(tokens: usize, width: usize, threads: usize) -> usize {
    let few = threads > 1 && tokens.div_ceil(BLOCK) < FEW * threads;
    if few { width.div_ceil(2).next_multiple_of(COLS) } else { width }
}

/// Blocks for each thread below which a part of one counts.
const FEW: usize = 8;

/// Outputs that one task of a small batch computes.
pub(super) const SMALL_OUTPUTS: usize = 32;
/// Elements of a weight's row that are dequantized at a time.
const SMALL_PIECE: usize = 4 * PIECE;

fn small_batch(isa: Isa, mut scratch: Scratch<'_>, x: &[f32], w: &Rows<'_>, y: &mut [f32], accumulate: Accumulate) {
    let (outputs, inputs) = (w.rows(), w.cols());
    let tokens = x.len() / inputs;
    let (_, mut areas) = scratch.split(Need { shared: 0, private: SMALL_PIECE });
    areas.run(
        TileMut::new(y, tokens, outputs, outputs).grid(tokens.max(1), SMALL_OUTPUTS),
        |(_, col, mut tile), area| {
            for j in 0..tile.cols() {
                let mut sums = [0.0; SMALL_BATCH];
                for from in (0..inputs).step_by(SMALL_PIECE) {
                    let piece = &mut area[..SMALL_PIECE.min(inputs - from)];
                    w.read(isa, col + j, from, piece);
                    for (t, sum) in sums.iter_mut().enumerate().take(tokens) {
                        *sum += dot(isa, piece, &x[t * inputs + from..][..piece.len()]);
                    }
                }
                for (t, sum) in sums.into_iter().enumerate().take(tokens) {
                    let y = &mut tile.row(t)[j];
                    *y = if accumulate == Accumulate::Yes { *y + sum } else { sum };
                }
            }
        },
    );
}

vectorized! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        sum_of(a, b, madd::<FMA>)
    }
}
