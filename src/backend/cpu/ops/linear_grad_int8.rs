//! Gradients of products in integers: both operands are rounded, in groups along the sum, into scratch that all threads share;
//! each thread then multiplies blocks of the result as in forward products.
//!
//! A weight's own codes cannot be used for the gradient of an input: their scales differ from row to row, along the sum. To
//! multiply the gradient by them before it is rounded would be to round it anew for every group of columns.

use super::linear::tokens_of;
use super::linear_int8::{BLOCK, block};
use super::weights::{PIECE, Rows};
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::gemm::Columns;
use crate::backend::cpu::simd::int8::{
    COLS, Groups, LeftRow, LeftTiles, Panel, ROWS, WIDTH, WORDS, columns_to_panels, columns_to_rows,
    quantize_row_at_random,
};
use crate::backend::cpu::simd::isa::Isa;
use crate::backend::cpu::simd::tasks::{Areas, Need, Scratch};
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::cpu::simd::uniform::uniform;
use crate::backend::{Accumulate, Compute, GRAD_GROUP, MaxShapes, RowDraws, Weight};
use crate::memory::Span;
use std::ops::Range;

/// Words of panels that are packed at once (1.1 MiB): of the deepest as many as a piece of a row goes to.
const PANELS: usize = 9 << 15;
/// Words of left operands that are rounded at once (4 MiB).
const SLAB: usize = 1 << 20;
/// Rows of which a slab is a multiple: whole pieces of what is rounded by columns, and whole tiles.
const UNIT: usize = 3 * WIDTH;
const _: () = assert!(UNIT.is_multiple_of(ROWS));
/// Groups of a sum that are rounded at once, of one that is as long: their panels are short enough for several of them.
const DEEPEST: usize = 64;
/// Panels that a task packs: those of a piece of a weight's row.
const AT_ONCE: usize = PIECE / COLS;
/// Elements of a gradient that a task rounds, about.
const ROUNDED: usize = 1 << 13;
/// Blocks of the result for each thread below which they are made smaller.
const FEW: usize = 8;

/// Words of a thread: rows of a weight that are a group, or random numbers of a row.
const PRIVATE: usize = GRAD_GROUP * PIECE;
const _: () = assert!(PRIVATE >= DEEPEST * GRAD_GROUP && PIECE.is_multiple_of(COLS));
const _: () = assert!(PANELS >= AT_ONCE * DEEPEST * (WORDS + 1) * COLS);

/// Scratch for all of this file.
pub(crate) fn need(max: &MaxShapes) -> Need {
    if max.compute != Compute::Int8 {
        return Need::default();
    }
    let widest = max.features.max(max.inputs);
    // As much as rows of so many groups can take, however they are cut.
    let most = |rows: usize, groups: usize| {
        let deepest = groups_of(groups.min(DEEPEST));
        let left = SLAB.min(rows.next_multiple_of(ROWS) * LeftRow::of(deepest).len());
        left + PANELS.min(widest.div_ceil(COLS) * Panel::of(deepest).len())
    };
    // Every token may be a sequence, and so a group.
    let shared = most(max.tokens, widest.div_ceil(GRAD_GROUP)).max(most(widest, max.tokens));
    Need { shared, private: PRIVATE }
}

/// How much of the operands there is at once.
#[derive(Clone, Copy)]
struct Cut {
    /// Groups along the sum.
    deep: usize,
    /// Rows of the left operand.
    rows: usize,
    panels: usize,
}

/// Operands of some groups.
fn groups_of(count: usize) -> Groups {
    Groups { count, words: WORDS, offsets: false }
}

impl Cut {
    fn new(rows: usize, cols: usize, groups: usize) -> Self {
        let deep = groups.min(DEEPEST);
        let (row, panel) = (LeftRow::of(groups_of(deep)).len(), Panel::of(groups_of(deep)).len());
        let slab = (SLAB / row / UNIT * UNIT).min(rows.next_multiple_of(ROWS));
        // Whole pieces of rows.
        let panels = PANELS / panel / AT_ONCE * AT_ONCE;
        Self { deep, rows: slab, panels: panels.min(cols.div_ceil(COLS)) }
    }

    fn left(self) -> usize {
        self.rows * LeftRow::of(groups_of(self.deep)).len()
    }

    fn need(self) -> Need {
        Need { shared: self.left() + self.panels * Panel::of(groups_of(self.deep)).len(), private: PRIVATE }
    }
}

/// What a task rounds of an operand: some of its rows or columns from `item` on, `count` of them, in some groups.
#[derive(Clone)]
struct Part {
    item: usize,
    count: usize,
    groups: Range<usize>,
}

/// A left operand and a right one, and how a task fills its tiles of them: of the left one codes, scales and starts, of panels
/// codes and scales.
struct Operands<L, R> {
    /// Rows of the left operand.
    rows: usize,
    /// Columns of the right one.
    cols: usize,
    /// Groups along the sum.
    groups: usize,
    /// Rows of the left operand, and groups, that a task rounds at most.
    task: (usize, usize),
    left: L,
    right: R,
}

impl<L, R> Operands<L, R>
where
    L: Fn(Part, LeftTiles<'_>, &mut [f32]) + Sync,
    R: Fn(Part, [TileMut<'_>; 2], &mut [f32]) + Sync,
{
    /// Sets `out` to the product, or adds it.
    fn multiply(&self, isa: Isa, mut scratch: Scratch<'_>, out: &mut [f32], accumulate: Accumulate) {
        let &Self { rows, cols, groups, .. } = self;
        let cut = Cut::new(rows, cols, groups);
        let (shared, mut areas) = scratch.split(cut.need());
        let (left, panels) = shared.split_at_mut(cut.left());
        let mut whole = TileMut::new(out, rows, cols, cols);
        for first in (0..groups).step_by(cut.deep) {
            let part = first..groups.min(first + cut.deep);
            let laid = groups_of(part.len());
            let accumulate = if first > 0 { Accumulate::Yes } else { accumulate };
            for row in (0..rows).step_by(cut.rows) {
                let count = cut.rows.min(rows - row);
                self.round(&mut areas, left, Part { item: row, count, groups: part.clone() });
                for col in (0..cols).step_by(cut.panels * COLS) {
                    let width = (cut.panels * COLS).min(cols - col);
                    // All panels stay from the first rows to the last.
                    if row == 0 || width < cols {
                        self.pack(&mut areas, panels, Part { item: col, count: width, groups: part.clone() });
                    }
                    let (length, panel) = (LeftRow::of(laid).len(), Panel::of(laid).len());
                    let wide = block_columns(count, width, areas.count());
                    let (left, panels) = (&*left, &*panels);
                    let blocks = whole.part(row, col, count, width).grid(BLOCK, wide);
                    areas.run(blocks, |(i, j, out), _| {
                        block(isa, laid, &left[i * length..], &panels[j / COLS * panel..], out, accumulate);
                    });
                }
            }
        }
    }

    /// Rounds rows of the left operand.
    fn round(&self, areas: &mut Areas<'_>, left: &mut [f32], all: Part) {
        let (row, groups, (rows, deep)) = (LeftRow::of(groups_of(all.groups.len())), all.groups.len(), self.task);
        let rest = TileMut::new(left, all.count, row.len(), row.len());
        // Between codes and scales there may be padding.
        let (mut codes, rest) = rest.split_cols(row.scales());
        let (scales, rest) = rest.split_cols(groups);
        let (starts, _) = rest.split_cols(groups);
        let codes = codes.part(0, 0, all.count, groups * WORDS).grid(rows, deep * WORDS);
        let numbers = scales.grid(rows, deep).zip(starts.grid(rows, deep));
        areas.run(codes.zip(numbers), |((i, _, codes), ((_, g, scales), (_, _, starts))), area| {
            let first = all.groups.start + g;
            let part = Part { item: all.item + i, count: codes.rows(), groups: first..first + scales.cols() };
            (self.left)(part, LeftTiles { codes, scales, starts }, area);
        });
    }

    /// Rounds columns of the right operand.
    fn pack(&self, areas: &mut Areas<'_>, panels: &mut [f32], all: Part) {
        let (wide, count) = (Panel::of(groups_of(all.groups.len())), all.count.div_ceil(COLS));
        let (codes, scales) = TileMut::new(panels, count, wide.len(), wide.len()).split_cols(wide.codes());
        let tiles = codes.grid(AT_ONCE, WORDS * COLS).zip(scales.grid(AT_ONCE, COLS));
        areas.run(tiles, |((p, _, codes), (_, at, scales)), area| {
            let (from, group) = (p * COLS, all.groups.start + at / COLS);
            let count = (AT_ONCE * COLS).min(all.count - from);
            (self.right)(Part { item: all.item + from, count, groups: group..group + 1 }, [codes, scales], area);
        });
    }
}

/// Columns of a block: all, or where there are few blocks of all a part of them.
fn block_columns(rows: usize, width: usize, threads: usize) -> usize {
    let parts = if threads > 1 { (FEW * threads).div_ceil(rows.div_ceil(BLOCK)) } else { 1 };
    width.div_ceil(parts).next_multiple_of(COLS)
}

/// `dx = dy w`.
pub(super) fn linear_grad_input_int8(
    cpu: &mut Cpu,
    dy: Span,
    w: &Weight,
    dx: Span,
    accumulate: Accumulate,
    draws: &RowDraws,
) {
    assert!(Compute::Int8.takes(w.format.codec()), "a weight of codes");
    let (isa, scratch, mut slices) = cpu.begin();
    let (dy, w, dx) = (slices.read::<f32>(dy), Rows::claim(&mut slices, w), slices.write::<f32>(dx));
    let (outputs, inputs) = (w.rows(), w.cols());
    let tokens = tokens_of(dy, outputs, dx, inputs);
    let left = |part: Part, mut to: LeftTiles<'_>, area: &mut [f32]| {
        let (from, end) = (part.groups.start * GRAD_GROUP, outputs.min(part.groups.end * GRAD_GROUP));
        let random = &mut area[..part.groups.len() * GRAD_GROUP];
        for i in 0..part.count {
            let row = part.item + i;
            uniform(isa, &draws.key, draws.element(row, outputs) + from as u64, random);
            let x = &dy[row * outputs..][from..end];
            quantize_row_at_random(isa, x, random, to.codes.row(i), to.scales.row(i), to.starts.row(i));
        }
    };
    let right = |part: Part, [mut codes, mut scales]: [TileMut<'_>; 2], area: &mut [f32]| {
        let first = part.groups.start * GRAD_GROUP;
        let rows = GRAD_GROUP.min(outputs - first);
        w.prefetch(first..first + rows, part.item, part.count);
        for (k, to) in area.chunks_exact_mut(PIECE).take(rows).enumerate() {
            w.read(isa, first + k, part.item, &mut to[..part.count]);
        }
        let columns = Columns { data: area, stride: PIECE, from: 0, count: part.count };
        columns_to_panels(isa, columns, rows, &mut codes, &mut scales);
    };
    let (groups, rows) = (outputs.div_ceil(GRAD_GROUP), (ROUNDED / outputs).max(1));
    let task = (rows, DEEPEST);
    Operands { rows: tokens, cols: inputs, groups, task, left, right }.multiply(isa, scratch, dx, accumulate);
}

/// `grad[O, I] = dy[T, O]^T x[T, I]`, of sequences of `sequence` tokens.
pub(super) fn linear_grad_weight_int8(
    cpu: &mut Cpu,
    [dy, x, grad]: [Span; 3],
    (outputs, inputs): (usize, usize),
    accumulate: Accumulate,
    sequence: usize,
    draws: &RowDraws,
) {
    let (isa, scratch, mut slices) = cpu.begin();
    let (dy, x, grad) = (slices.read::<f32>(dy), slices.read::<f32>(x), slices.write::<f32>(grad));
    let tokens = dy.len() / outputs;
    assert_eq!([dy.len(), x.len()], [tokens * outputs, tokens * inputs], "whole rows, as many of both");
    assert_eq!(grad.len(), outputs * inputs, "the gradient's elements");
    assert!(tokens > 0 && tokens.is_multiple_of(sequence), "{tokens} tokens in sequences of {sequence}");
    let each = sequence.div_ceil(GRAD_GROUP);
    let tokens_of = |group: usize| {
        let (first, from) = (group / each * sequence, group % each * GRAD_GROUP);
        first + from..first + sequence.min(from + GRAD_GROUP)
    };
    let left = |part: Part, mut to: LeftTiles<'_>, _: &mut [f32]| {
        for (g, group) in part.groups.enumerate() {
            let tokens = tokens_of(group);
            let columns =
                Columns { data: &dy[tokens.start * outputs..], stride: outputs, from: part.item, count: part.count };
            let to = LeftTiles {
                codes: to.codes.part(0, g * WORDS, part.count, WORDS),
                scales: to.scales.part(0, g, part.count, 1),
                starts: to.starts.part(0, g, part.count, 1),
            };
            columns_to_rows(isa, columns, tokens.len(), draws, (tokens.start, outputs), to);
        }
    };
    let right = |part: Part, [mut codes, mut scales]: [TileMut<'_>; 2], _: &mut [f32]| {
        let tokens = tokens_of(part.groups.start);
        let data = &x[tokens.start * inputs..];
        let columns = Columns { data, stride: inputs, from: part.item, count: part.count };
        columns_to_panels(isa, columns, tokens.len(), &mut codes, &mut scales);
    };
    let (groups, task) = (tokens / sequence * each, (WIDTH, ROUNDED / (WIDTH * GRAD_GROUP)));
    Operands { rows: outputs, cols: inputs, groups, task, left, right }.multiply(isa, scratch, grad, accumulate);
}
