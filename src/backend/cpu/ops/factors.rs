//! Sums over rows and columns, and what a direction is divided and multiplied by. The order of all additions is every
//! backend's: within a row or a run 32 interleaved sums, folded half by half; within a column 64 rows one after the other,
//! then these sums one after the other.

use super::normalize;
use super::update::Gate;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::reduce::fold_halves;
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::ops::Factors;
use crate::backend::{Axis, DivisorArgs, MaxShapes, RelativeStepArgs, StateTensor};
use crate::memory::Span;
use rayon::prelude::*;

/// Interleaved sums of a row or a run.
const LANES: usize = 32;

/// Rows that a thread takes at a time, and that a column's sum runs over in one go.
const BLOCK: usize = 64;

/// Elements of a row that a thread takes at a time.
const PIECE: usize = 16384;

/// Scratch: the sums of columns over blocks of rows.
pub(crate) fn need(max: &MaxShapes) -> Need {
    Need { shared: max.features.max(max.inputs) + max.parameter.div_ceil(BLOCK), private: 0 }
}

impl Factors for Cpu {
    fn squares(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, out: Span) {
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let mut scratch = Scratch::new(slices.write(self.workspace), &self.pool);
        let (x, out) = (slices.read::<f32>(x), slices.write::<f32>(out));
        assert_eq!(x.len(), rows * cols, "elements of a matrix");
        let blocks = x.par_chunks(BLOCK * cols);
        if axis == Axis::Rows {
            assert_eq!(out.len(), rows, "one sum for each row");
            let sums = blocks.zip(out.par_chunks_mut(BLOCK));
            return self.pool.install(|| sums.for_each(|(x, out)| row_squares(isa, x, cols, out)));
        }
        assert_eq!(out.len(), cols, "one sum for each column");
        let need = Need { shared: rows.div_ceil(BLOCK) * cols, private: 0 };
        let (sums, _) = scratch.split(need);
        self.pool.install(|| {
            blocks.zip(sums.par_chunks_mut(cols)).for_each(|(x, sums)| normalize::col_sums(isa, x, sums));
        });
        out.fill(0.0);
        for block in sums.chunks_exact(cols) {
            out.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
        }
    }

    fn sums(&mut self, x: Span, length: usize, out: Span) {
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let (x, out) = (slices.read::<f32>(x), slices.write::<f32>(out));
        assert_eq!(out.len(), x.len().div_ceil(length), "one sum for each run");
        let runs = x.par_chunks(length).zip(out);
        self.pool.install(|| runs.with_min_len(BLOCK).for_each(|(x, out)| *out = sum(isa, x)));
    }

    fn scale_axis(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, factors: Span) {
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let (x, factors) = (slices.write::<f32>(x), slices.read::<f32>(factors));
        assert_eq!(x.len(), rows * cols, "elements of a matrix");
        assert_eq!(factors.len(), if axis == Axis::Rows { rows } else { cols }, "one factor for each row or column");
        self.pool.install(|| match axis {
            Axis::Rows if rows == 1 => x.par_chunks_mut(PIECE).for_each(|x| multiply(isa, x, cols, factors)),
            Axis::Rows => {
                let blocks = x.par_chunks_mut(BLOCK * cols).zip(factors.par_chunks(BLOCK));
                blocks.for_each(|(x, factors)| multiply(isa, x, cols, factors));
            }
            Axis::Cols => x.par_chunks_mut(BLOCK * cols).for_each(|x| multiply_rows(isa, x, factors)),
        });
    }

    fn divide_by_root(&mut self, x: Span, of_rows: Span, of_cols: Span, args: &DivisorArgs) {
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let x = slices.write::<f32>(x);
        let (of_rows, of_cols) = (slices.read::<f32>(of_rows), slices.read::<f32>(of_cols));
        let (rows, cols) = (args.rows as usize, args.cols as usize);
        assert_eq!(x.len(), rows * cols, "elements of a matrix");
        assert!(of_rows.is_empty() || of_rows.len() == rows.div_ceil(args.run as usize), "moments of rows");
        assert!(of_cols.is_empty() || of_cols.len() == cols, "moments of columns");
        let divide = |(row, x): (usize, &mut [f32])| {
            let of_row = of_rows.get(row / args.run as usize).copied().unwrap_or(1.0);
            match of_cols {
                [] => x.par_chunks_mut(PIECE).for_each(|x| divide_by_one(isa, x, of_row, args)),
                of_cols => divide_by_columns(isa, x, of_row, of_cols, args),
            }
        };
        self.pool.install(|| x.par_chunks_mut(cols).enumerate().for_each(divide));
    }

    fn ratio_of_roots(&mut self, a: Span, b: Span, eps: f32) {
        let mut slices = self.arena.borrow_slices();
        let (a, b) = (slices.write::<f32>(a), slices.read::<f32>(b));
        assert_eq!(a.len(), b.len(), "a ratio of two vectors");
        for (a, b) in a.iter_mut().zip(b) {
            let divisor = b.sqrt() + eps;
            *a = if divisor > 0.0 { a.sqrt() / divisor } else { 0.0 };
        }
    }

    fn divide_by_mean(&mut self, a: Span, b: Span, floor: f32) {
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let (a, b) = (slices.write::<f32>(a), slices.read::<f32>(b));
        let mean = sum(isa, b) / b.len() as f32;
        let divisor = if mean > floor { mean } else { floor };
        a.iter_mut().for_each(|x| *x /= divisor);
    }

    fn limit_growth(&mut self, factor: Span, kept: &StateTensor, growth: f32, eps: f32) {
        if self.gate != Gate::Open {
            return;
        }
        let mut slices = self.arena.borrow_slices();
        let ([factor], [last, any]) = (slices.write::<f32>(factor), slices.write::<f32>(kept.data)) else {
            panic!("the limiter has one factor and keeps two numbers");
        };
        let norm = factor.sqrt();
        let ratio = norm / (*last + eps);
        let over = if *any != 0.0 && ratio > growth { ratio / growth } else { 1.0 };
        (*last, *any, *factor) = (norm / over, 1.0, 1.0 / over);
    }

    fn relative_step(&mut self, factor: Span, weight: Span, args: &RelativeStepArgs) {
        let mut slices = self.arena.borrow_slices();
        let ([factor], [weight]) = (slices.write::<f32>(factor), slices.read::<f32>(weight)) else {
            panic!("a relative step has one factor and one norm");
        };
        let (of_weight, of_direction) = ((*weight / args.count).sqrt(), (*factor / args.count).sqrt() / args.threshold);
        let size = args.rate * if of_weight > args.least { of_weight } else { args.least };
        *factor = size / if of_direction > 1.0 { of_direction } else { 1.0 };
    }
}

/// The divisor of an element whose second moment is `v`.
#[inline(always)]
fn divisor(v: f32, args: &DivisorArgs) -> f32 {
    let v = if v > args.floor { v } else { args.floor };
    v.sqrt() * args.root + args.eps
}

vectorized! {
    fn row_squares(x: &[f32], cols: usize, out: &mut [f32]) {
        for (row, out) in x.chunks_exact(cols).zip(out) {
            let mut lanes = [0.0f32; LANES];
            for chunk in row.chunks(LANES) {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane += x * x;
                }
            }
            *out = fold_halves(lanes);
        }
    }
}

vectorized! {
    fn sum(x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for chunk in x.chunks(LANES) {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += x;
            }
        }
        fold_halves(lanes)
    }
}

vectorized! {
    fn multiply(x: &mut [f32], cols: usize, factors: &[f32]) {
        for (row, factor) in x.chunks_mut(cols).zip(factors) {
            row.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

vectorized! {
    fn multiply_rows(x: &mut [f32], factors: &[f32]) {
        for row in x.chunks_exact_mut(factors.len()) {
            row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
        }
    }
}

vectorized! {
    fn divide_by_one(x: &mut [f32], v: f32, args: &DivisorArgs) {
        let divisor = divisor(v, args);
        x.iter_mut().for_each(|x| *x /= divisor);
    }
}

vectorized! {
    fn divide_by_columns(x: &mut [f32], of_row: f32, of_cols: &[f32], args: &DivisorArgs) {
        for (x, of_col) in x.iter_mut().zip(of_cols) {
            *x /= divisor(of_row * of_col, args);
        }
    }
}
