//! Sums over rows and columns, and what rules divide and multiply a direction by. Numbers are float32; a sum has one
//! fixed order, so that every backend gives the same bits.

use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::{Axis, Backend, DivisorArgs, RelativeStepArgs, StateTensor};
use crate::memory::Span;
use crate::quant::{StateShape, StateSpec};

/// Sums of squares, and the factors that rules make of them. A matrix `x` is float32 `[rows, cols]`; what belongs to its
/// rows or columns is a vector of that length.
pub trait Factors {
    /// `out[i]`: the sum of the squares of row (or column) `i` of `x`.
    fn squares(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, out: Span);

    /// `out[i]`: the sum of the numbers `length i .. length (i + 1)` of `x`, of which the last may be fewer.
    fn sums(&mut self, x: Span, length: usize, out: Span);

    /// Multiplies row (or column) `i` of `x` by `factors[i]`.
    fn scale_axis(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, factors: Span);

    /// Divides element `(i, j)` of `x` by `root sqrt(max(v, floor)) + eps` with `v = of_rows[i / run] of_cols[j]`, a
    /// vector that is empty counting as ones; see [`DivisorArgs`].
    fn divide_by_root(&mut self, x: Span, of_rows: Span, of_cols: Span, args: &DivisorArgs);

    /// `a[i] = sqrt(a[i]) / (sqrt(b[i]) + eps)`, and 0 where the divisor is.
    fn ratio_of_roots(&mut self, a: Span, b: Span, eps: f32);

    /// `a[i] = a[i] / max(mean(b), floor)`.
    fn divide_by_mean(&mut self, a: Span, b: Span, floor: f32);

    /// The norm-growth limiter: `factor`, one number, holds the squared norm of a direction and receives what the
    /// direction is to be multiplied by. `kept` is two scalars: the norm after the limiter, and whether there was one.
    /// With `q` the norm and `f = max(q / (kept + eps), growth) / growth` the factor is `1 / f`, and `q / f` is kept; at
    /// first it is 1. Where [`super::Update::begin_update`] leaves state alone, nothing is kept.
    fn limit_growth(&mut self, factor: Span, kept: &StateTensor, growth: f32, eps: f32);

    /// Adafactor's step: `factor`, one number, holds the squared norm of a direction and receives what the direction is to
    /// be multiplied by, `weight` holds the squared norm of the weight; see [`RelativeStepArgs`].
    fn relative_step(&mut self, factor: Span, weight: Span, args: &RelativeStepArgs);
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (rows, cols) in [(1, 1), (3, 70), (70, 33), (130, 40), (1, 300)] {
        sums_of(open, rows, cols);
        products_of(open, rows, cols);
    }
    small(open);
}

fn sums_of(open: &dyn Fn() -> Box<dyn Backend>, rows: usize, cols: usize) {
    let mut case = Case::new(open, cols as u64);
    let x = case.numbers(rows * cols);
    let at = case.add(&x);
    let [of_rows, of_cols, of_runs] = [rows, cols, (rows * cols).div_ceil(47)].map(|count| case.room(count));
    case.run(MAX, |backend| {
        backend.squares(at, rows, cols, Axis::Rows, of_rows);
        backend.squares(at, rows, cols, Axis::Cols, of_cols);
        backend.sums(at, 47, of_runs);
    });
    let x = wide(&x);
    let squares = |x: &mut dyn Iterator<Item = &f64>| x.map(|x| x * x).sum::<f64>();
    let wanted: Vec<_> = x.chunks(cols).map(|row| squares(&mut row.iter())).collect();
    case.near_floats(of_rows, &wanted, "sums of the squares of rows");
    let wanted: Vec<_> = (0..cols).map(|j| squares(&mut x.iter().skip(j).step_by(cols))).collect();
    case.near_floats(of_cols, &wanted, "sums of the squares of columns");
    let wanted: Vec<_> = x.chunks(47).map(|run| run.iter().sum::<f64>()).collect();
    case.near_floats(of_runs, &wanted, "sums of runs");
}

fn products_of(open: &dyn Fn() -> Box<dyn Backend>, rows: usize, cols: usize) {
    let mut case = Case::new(open, rows as u64);
    let (x, run) = (case.numbers(rows * cols), 4);
    let [by_row, by_col, runs] = [rows, cols, rows.div_ceil(run)].map(|count| case.numbers(count));
    let [by_row_at, by_col_at] = [&by_row, &by_col].map(|factors| case.add(factors));
    let moments = |x: Vec<f32>| x.into_iter().map(f32::abs).collect::<Vec<_>>();
    let (runs, columns) = (moments(runs), moments(by_col.clone()));
    let [runs_at, columns_at] = [&runs, &columns].map(|moments| case.add(moments));
    let [scaled_rows, scaled_cols, shared, factored] = [(); 4].map(|()| case.add(&x));
    let args = DivisorArgs { rows: rows as u32, cols: cols as u32, run: run as u32, root: 2.0, floor: 0.01, eps: 0.5 };
    case.run(MAX, |backend| {
        backend.scale_axis(scaled_rows, rows, cols, Axis::Rows, by_row_at);
        backend.scale_axis(scaled_cols, rows, cols, Axis::Cols, by_col_at);
        backend.divide_by_root(shared, runs_at, Span::NONE, &args);
        backend.divide_by_root(factored, runs_at, columns_at, &args);
    });
    let each = |f: &dyn Fn(f64, usize, usize) -> f64| -> Vec<f64> {
        x.iter().enumerate().map(|(at, &x)| f(x.into(), at / cols, at % cols)).collect()
    };
    case.near_floats(scaled_rows, &each(&|x, i, _| x * f64::from(by_row[i])), "rows times factors");
    case.near_floats(scaled_cols, &each(&|x, _, j| x * f64::from(by_col[j])), "columns times factors");
    let divisor = |v: f64| 2.0 * v.max(0.01).sqrt() + 0.5;
    let row = |i: usize| f64::from(runs[i / run]);
    case.near_floats(shared, &each(&|x, i, _| x / divisor(row(i))), "a moment for each run of rows");
    let wanted = each(&|x, i, j| x / divisor(row(i) * f64::from(columns[j])));
    case.near_floats(factored, &wanted, "moments of rows and columns");
}

fn small(open: &dyn Fn() -> Box<dyn Backend>) {
    let mut case = Case::new(open, 5);
    let (a, b) = ([4.0f32, 9.0, 0.0, 0.0], [16.0f32, 0.0, 4.0, 0.0]);
    let [with, without, shared] = [(); 3].map(|()| case.add(&a));
    let b_at = case.add(&b);
    let (step, weight) = (case.add(&[64.0f32]), case.add(&[16.0f32]));
    let (clipped, tiny) = (case.add(&[0.25f32]), case.add(&[0.0f32]));
    let (grad, zeros, bad) = (case.add(&[1.0f32]), case.add(&[0.0f32]), case.add(&[f32::NAN]));
    let kept = StateTensor {
        spec: StateSpec::floats("limiter", StateShape::Scalars(2)),
        data: case.add(&[0.0f32; 2]),
        scales: Span::NONE,
    };
    let norms = [9.0f32, 9.18, 36.0, 1e6, 1e6, 4.0].map(|squared| case.add(&[squared]));
    let args = RelativeStepArgs { count: 4.0, least: 1e-3, rate: 0.1, threshold: 1.0 };
    case.run(MAX, |backend| {
        backend.ratio_of_roots(with, b_at, 1.0);
        backend.ratio_of_roots(without, b_at, 0.0);
        backend.divide_by_mean(shared, b_at, 0.1);
        backend.relative_step(step, weight, &args);
        backend.relative_step(clipped, tiny, &args);
        // What a gradient without a step must leave alone is tried in the middle.
        for (norm, grad) in norms.into_iter().zip([grad, grad, grad, zeros, bad, grad]) {
            backend.begin_update(grad, true);
            backend.limit_growth(norm, &kept, 1.01, 0.0);
        }
    });
    case.near_floats(with, &[0.4, 3.0, 0.0, 0.0], "a ratio of roots");
    case.near_floats(without, &[0.5, 0.0, 0.0, 0.0], "a ratio of roots without eps");
    case.near_floats(shared, &[0.8, 1.8, 0.0, 0.0], "numbers over a mean");
    // The direction's root mean square is 4, the weight's 2.
    case.near_floats(step, &[0.1 * 2.0 / 4.0], "a step relative to the weight");
    case.near_floats(clipped, &[0.1 * 1e-3], "a step relative to the least weight");

    case.near_floats(norms[0], &[1.0], "the first norm");
    let third = 9.18f64.sqrt() * 1.01;
    case.near_floats(norms[1], &[1.0], "a norm that grows by no more than 1 %");
    case.near_floats(norms[2], &[third / 6.0], "a norm that has doubled");
    case.near_floats(norms[5], &[1.0], "a norm that shrinks");
    case.near_floats(kept.data, &[2.0, 1.0], "the norm that is kept");
}
