//! Products of float32 matrices. Panels of the right operand are packed into scratch that all threads share; each task
//! then sums a block of rows over them. How the result is cut into blocks changes no sum.

use super::linear::{BLOCK, PANELS};
use crate::backend::MaxShapes;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::gemm::{
    COLS, Columns, Copied, DEPTH, PITCH, ROWS, Strips, Sum, columns_to_panels, copy_rows, product, row_to_panels,
    rows_to_strips,
};
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::ops::{Layout, MatMul, MatMulArgs, Precision};

/// Blocks of rows that are enough for the threads to share; more would only read the panels more often.
const TASKS: usize = 12;
/// Deepest panel of a sum that is kept in the result.
const DEEPEST: usize = 4 * DEPTH;
/// Most columns that are packed at once: with more, a block's sums would leave the second cache.
const WIDEST: usize = 32 * COLS;
/// Distance of strips: a line more than a power of two, so that those written side by side do not compete for the same
/// lines of the first cache.
const STRIP: usize = DEPTH * ROWS + 16;
/// What panels are farther apart than they are long, for the same reason.
const GAP: usize = COLS;
/// Panels and rows of them that a task packs where the right operand's rows are read as they lie.
const PIECE: (usize, usize) = (8, 32);

/// Elements of a block of the left operand, which is copied in one of two forms; of rows that become a panel, too.
const LEFT: usize = if BLOCK * PITCH > BLOCK / ROWS * STRIP { BLOCK * PITCH } else { BLOCK / ROWS * STRIP };
const _: () = assert!(COLS * PITCH <= LEFT);

/// How deep panels of `inner` rows are packed at once, and how many of the columns.
#[derive(Clone, Copy)]
struct Cut {
    deep: usize,
    wide: usize,
}

impl Cut {
    /// Sums that are kept apart are of one block at a time, so panels have the whole depth.
    fn new(inner: usize, cols: usize, beta: f32) -> Self {
        let deep = if apart(beta) { inner } else { inner.min(DEEPEST) };
        let wide = (PANELS / deep / COLS * COLS).clamp(COLS, WIDEST).min(cols.next_multiple_of(COLS));
        Self { deep, wide }
    }

    fn need(self) -> Need {
        Need { shared: self.wide / COLS * (self.deep * COLS + GAP), private: LEFT + BLOCK * self.wide }
    }
}

/// Scratch for all of this file.
pub(crate) fn need(max: &MaxShapes) -> Need {
    let longest = max.features.max(max.inputs);
    let wide = WIDEST.min(longest.next_multiple_of(COLS));
    let panels = PANELS.max(longest * COLS).min(longest * longest.next_multiple_of(COLS));
    Need { shared: panels + wide / COLS * GAP, private: LEFT + BLOCK * wide }
}

impl MatMul for Cpu {
    fn matmul(&mut self, args: &MatMulArgs) {
        let (isa, mut scratch, mut slices) = self.begin();
        let &MatMulArgs { rows, inner, cols, beta, .. } = args;
        let (a, b) = (slices.read::<f32>(args.a.0), slices.read::<f32>(args.b.0));
        let out = slices.write::<f32>(args.out);
        assert!(inner > 0, "a product without an inner dimension");
        assert_eq!([a.len(), b.len(), out.len()], [rows * inner, inner * cols, rows * cols], "elements of a product");
        let cut @ Cut { deep, wide } = Cut::new(inner, cols, beta);
        let (panels, mut areas) = scratch.split(cut.need());
        let down = rows.div_ceil(TASKS).next_multiple_of(ROWS).min(BLOCK);
        let mut whole = TileMut::new(out, rows, cols, cols);
        for col in (0..cols).step_by(wide) {
            let width = wide.min(cols - col);
            for from in (0..inner).step_by(deep) {
                let depth = deep.min(inner - from);
                let (count, pitch) = (width.div_ceil(COLS), depth * COLS + GAP);
                let task = if args.b.1 == Layout::Plain { PIECE } else { (1, DEPTH) };
                let pieces = TileMut::new(panels, count, depth * COLS, pitch).grid(task.0, task.1 * COLS);
                areas.run(pieces, |(p, k, tile), area| {
                    pack_right(isa, b, args, (from + k / COLS, col + p * COLS), tile, area);
                });
                let right = Panels { data: panels, pitch, from, depth };
                let blocks = whole.part(0, col, rows, width).grid(down, width);
                areas.run(blocks, |(row, _, tile), area| block(isa, args, a, row, right, tile, area));
            }
        }
    }
}

/// Panels of the right operand: its rows `from..from + depth`, `pitch` elements apart.
#[derive(Clone, Copy)]
struct Panels<'a> {
    data: &'a [f32],
    pitch: usize,
    from: usize,
    depth: usize,
}

/// Adds what the panels give to a block of the result, whose first row is `row`; after the last of them the result is
/// complete.
fn block(
    isa: Isa,
    args: &MatMulArgs,
    a: &[f32],
    row: usize,
    right: Panels<'_>,
    mut tile: TileMut<'_>,
    area: &mut [f32],
) {
    let &MatMulArgs { rows, inner, alpha, beta, precision, .. } = args;
    let (left, sums) = area.split_at_mut(LEFT);
    let (height, width) = (tile.rows(), tile.cols());
    for k in (0..right.depth).step_by(DEPTH) {
        let (at, run, panels) = (right.from + k, DEPTH.min(right.depth - k), &right.data[k * COLS..]);
        let to = match apart(beta) {
            true => TileMut::new(sums, height, width, width),
            false => tile.part(0, 0, height, width),
        };
        let sum = if at > 0 { Sum::Added } else { Sum::New };
        match args.a.1 {
            Layout::Plain => {
                copy_rows(isa, &a[row * inner..], inner, height, at, run, left);
                product(isa, Copied::whole(left), panels, right.pitch, run, to, sum);
            }
            Layout::Transposed => {
                let a = Columns { data: &a[at * rows..], stride: rows, from: row, count: height };
                rows_to_strips(isa, a, run, STRIP, left);
                product(isa, Strips::strips(left, STRIP), panels, right.pitch, run, to, sum);
            }
        }
    }
    if right.from + right.depth < inner {
        return;
    }
    for (i, sums) in sums.chunks_exact(width).enumerate().take(height) {
        match apart(beta) {
            true => add(isa, sums, tile.row(i), alpha, beta, precision),
            false => scale(isa, tile.row(i), alpha, precision),
        }
    }
}

/// Whether sums are kept apart from the result, whose former values are needed until a sum is complete.
fn apart(beta: f32) -> bool {
    beta != 0.0
}

/// Rows `k..` of the panels that begin with column `col` of the right operand, as many of both as the tile holds.
fn pack_right(
    isa: Isa,
    b: &[f32],
    args: &MatMulArgs,
    (k, col): (usize, usize),
    mut tile: TileMut<'_>,
    area: &mut [f32],
) {
    let MatMulArgs { inner, cols, .. } = *args;
    let (depth, count) = (tile.cols() / COLS, (tile.rows() * COLS).min(cols - col));
    match args.b.1 {
        Layout::Plain => {
            for i in 0..depth {
                row_to_panels(&b[(k + i) * cols + col..][..count], i, &mut tile);
            }
        }
        // Copied first: rows a power of two apart would compete for the same lines of the first cache.
        Layout::Transposed => {
            copy_rows(isa, &b[col * inner..], inner, count, k, depth, area);
            columns_to_panels(isa, area, PITCH, count, depth, 0, tile.row(0));
        }
    }
}

vectorized! {
    fn add(sums: &[f32], out: &mut [f32], alpha: f32, beta: f32, precision: Precision) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = precision.round(precision.round(alpha * sum) + precision.round(beta * *out));
        }
    }
}

vectorized! {
    fn scale(out: &mut [f32], alpha: f32, precision: Precision) {
        if alpha == 1.0 && precision == Precision::F32 {
            return;
        }
        for out in out {
            *out = precision.round(alpha * *out);
        }
    }
}
