//! Second moments that elements share: moving averages of the mean squared gradient of each row (`row`), or of each row
//! and each column (`factored`), of which an element's is `rows[i] cols[j] / mean(rows)`.
//!
//! The order of all additions is every backend's: within a row 32 interleaved sums, folded half by half; within a column
//! 64 rows one after the other, then these sums one after the other; the mean of all rows in 256 interleaved sums.

use super::param_rows::{MomentRows, is_touched};
use crate::backend::adam::{AdamParams, state};
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::reduce::fold_halves;
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::{MaxShapes, Param};
use crate::memory::{ArenaBorrow, Span};
use crate::quant::GroupedShape;
use rayon::prelude::*;

/// Interleaved sums of a row.
const ROW_LANES: usize = 32;

/// Interleaved sums over the rows' means.
const LANES: usize = 256;

/// Rows that a column's sum runs over in one go.
const BLOCK: usize = 64;

/// Scratch: this step's numbers of rows and factors of columns, and the sums of columns over blocks of rows.
pub(crate) fn need(max: &MaxShapes) -> Need {
    let (rows, cols) = (max.features.max(max.inputs), max.inputs);
    Need { shared: rows + 2 * cols + max.parameter.div_ceil(BLOCK), private: 0 }
}

/// Shared second moments on their way through a step.
pub(crate) struct Means<'a> {
    /// Moving averages of rows: the state.
    pub rows: &'a mut [f32],
    /// Moving averages of columns: the state; empty without factors.
    pub cols: &'a mut [f32],
    /// Those of this step, as many as there are rows.
    pub now: &'a mut [f32],
    /// What a row's number is multiplied by, as many as there are columns if factored.
    pub factors: &'a mut [f32],
    /// Sums of columns over blocks of rows, `[blocks, cols]` if factored.
    pub sums: &'a mut [f32],
}

impl<'a> Means<'a> {
    /// Those of a parameter that has them.
    pub fn claim(slices: &mut ArenaBorrow<'a>, scratch: &'a mut Scratch, param: &Param) -> Option<Self> {
        let rows = param.state.get(state::V_ROWS)?.data;
        let of_cols = param.state.get(state::V_COLS).map_or(Span::NONE, |cols| cols.data);
        let g = param.weight.shape;
        let cols = of_cols.bytes / 4;
        let sums = g.rows.div_ceil(BLOCK) * cols;
        let (shared, _) = scratch.split(Need { shared: g.rows + cols + sums, private: 0 });
        let (now, rest) = shared.split_at_mut(g.rows);
        let (factors, sums) = rest.split_at_mut(cols);
        Some(Self { rows: slices.write(rows), cols: slices.write(of_cols), now, factors, sums })
    }

    /// Takes a gradient into account; gives this step's second moments. At a reset the averages before it count as
    /// zero, or those after it are. If `sparse`, rows without a gradient keep theirs.
    ///
    /// # Panics
    /// If the planes do not have the shape's rows and columns.
    pub fn advance(self, isa: Isa, g: GroupedShape, grad: &[f32], sparse: bool, params: &AdamParams) -> MomentRows<'a> {
        let Self { rows, cols, now, factors, sums } = self;
        assert!((rows.len(), now.len()) == (g.rows, g.rows) && [0, g.cols].contains(&cols.len()), "shared moments");
        let before = |old: f32| if params.args.reset_before != 0 { 0.0 } else { old };
        let after = |new: f32| if params.args.reset_after != 0 { 0.0 } else { new };
        sums_of_blocks(isa, g.cols, grad, now, sums, params);
        for ((kept, now), grad) in rows.iter_mut().zip(now.iter_mut()).zip(grad.chunks_exact(g.cols)) {
            if sparse && !is_touched(grad) {
                continue;
            }
            *now = params.mean_of_squares(before(*kept), *now / g.cols as f32);
            *kept = after(*now);
        }
        if !cols.is_empty() {
            let mean = sum(now) / g.rows as f32;
            let (sums, blocks) = sums.split_at_mut(g.cols);
            for block in blocks.chunks_exact(g.cols) {
                sums.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
            }
            for ((kept, factor), sum) in cols.iter_mut().zip(factors.iter_mut()).zip(sums) {
                let col = params.mean_of_squares(before(*kept), *sum / g.rows as f32);
                *kept = after(col);
                *factor = if mean > 0.0 { col / mean } else { 0.0 };
            }
        }
        MomentRows::Shared { rows: now, factors }
    }
}

/// Sums of squares of every row, and of every column over blocks of rows unless `cols_sums` is empty.
fn sums_of_blocks(isa: Isa, cols: usize, grad: &[f32], rows: &mut [f32], cols_sums: &mut [f32], params: &AdamParams) {
    let blocks = grad.par_chunks(BLOCK * cols).zip(rows.par_chunks_mut(BLOCK));
    if cols_sums.is_empty() {
        blocks.for_each(|(grad, rows)| row_sums(isa, grad, cols, rows, params));
    } else {
        blocks.zip(cols_sums.par_chunks_mut(cols)).for_each(|((grad, rows), sums)| {
            row_sums(isa, grad, cols, rows, params);
            col_sums(isa, grad, sums, params);
        });
    }
}

vectorized! {
    fn row_sums(grad: &[f32], cols: usize, sums: &mut [f32], params: &AdamParams) {
        for (row, sum) in grad.chunks_exact(cols).zip(sums) {
            let mut lanes = [0.0f32; ROW_LANES];
            let (whole, tail) = row.as_chunks::<ROW_LANES>();
            for x in whole {
                for j in 0..ROW_LANES {
                    let y = params.gradient(x[j]);
                    lanes[j] += y * y;
                }
            }
            // Apart from the lanes: an index known only at run time would keep them out of vector registers.
            let mut last = [0.0; ROW_LANES];
            for (last, &x) in last.iter_mut().zip(tail) {
                let y = params.gradient(x);
                *last = y * y;
            }
            for j in 0..ROW_LANES {
                lanes[j] += last[j];
            }
            *sum = fold_halves(lanes);
        }
    }
}

vectorized! {
    fn col_sums(grad: &[f32], sums: &mut [f32], params: &AdamParams) {
        sums.fill(0.0);
        for row in grad.chunks_exact(sums.len()) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                let y = params.gradient(x);
                *sum += y * y;
            }
        }
    }
}

fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for chunk in values.chunks(LANES) {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += x);
    }
    fold_halves(lanes)
}
