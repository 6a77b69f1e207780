//! Gradients of products as sums of integers: how their operands are rounded.

use super::Accumulate;
use super::conformance::{Case, MAX, stored};
use super::linear::{linear_grad_input, linear_grad_weight};
use crate::backend::{Backend, Compute, MaxShapes};
use crate::quant::{GroupedShape, RngKey, RngUse, WeightFormat};

/// Elements of a sum that share a scale in [`super::Linear::linear_grad_input_int8`] and
/// [`super::Linear::linear_grad_weight_int8`].
pub const GRAD_GROUP: usize = 64;

/// The random numbers by which rows of a gradient are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowDraws {
    /// Those of an element are counted in rows that are padded to whole groups of [`GRAD_GROUP`].
    pub key: RngKey,
    /// The number of the first row.
    pub first_row: usize,
}

impl RowDraws {
    /// The number of the first element of row `row`, counted from `first_row` on.
    pub fn element(&self, row: usize, width: usize) -> u64 {
        ((self.first_row + row) * width.next_multiple_of(GRAD_GROUP)) as u64
    }

    /// What is added to element `col` of a row before it is rounded to the nearest integer: above -1/2, below 1/2.
    fn added(&self, row: usize, col: usize, width: usize) -> f32 {
        self.key.uniform_at(self.element(row, width) + col as u64) + FIRST_ADDED
    }
}

/// What is added for a random number of 0: numbers are multiples of 2^-16, and half of that keeps their mean at 0.
pub const FIRST_ADDED: f32 = 0.5 / 65536.0 - 0.5;

/// Integers of a group and their scale: those nearest to `x k` and what is added to each, halves to the even one.
fn round(group: &[(f32, f32)]) -> Vec<f64> {
    let most = group.iter().fold(0.0f32, |most, (x, _)| most.max(x.abs()));
    if group.iter().any(|(x, _)| !x.is_finite()) {
        return vec![f64::NAN; group.len()];
    }
    let (scale, steps) = (most / 127.0, 127.0 / most);
    let steps = if steps.is_finite() { steps } else { 0.0 };
    let integer = |&(x, added): &(f32, f32)| (x * steps + added).clamp(-127.0, 127.0).round_ties_even();
    group.iter().map(|element| f64::from(scale) * f64::from(integer(element))).collect()
}

/// Rows of a gradient as [`super::Linear::linear_grad_input_int8`] rounds them.
pub fn round_grad_rows(dy: &[f32], outputs: usize, draws: &RowDraws) -> Vec<f64> {
    let added = |row: usize, (col, &x): (usize, &f32)| (x, draws.added(row, col, outputs));
    let row = |(row, dy): (usize, &[f32])| -> Vec<f64> {
        let elements: Vec<_> = dy.iter().enumerate().map(|element| added(row, element)).collect();
        elements.chunks(GRAD_GROUP).flat_map(round).collect()
    };
    dy.chunks(outputs).enumerate().flat_map(row).collect()
}

/// Columns of `width`-wide rows in groups that begin anew every `run` rows, to the nearest integer or, with `draws`, at random.
pub fn round_grad_columns(x: &[f32], width: usize, run: usize, draws: Option<&RowDraws>) -> Vec<f64> {
    let (rows, mut out) = (x.len() / width, vec![0.0; x.len()]);
    let groups = (0..rows).step_by(run).flat_map(|first| {
        let end = rows.min(first + run);
        (first..end).step_by(GRAD_GROUP).map(move |from| from..end.min(from + GRAD_GROUP))
    });
    for group in groups {
        for col in 0..width {
            let added = |row| draws.map_or(0.0, |draws| draws.added(row, col, width));
            let elements: Vec<_> = group.clone().map(|row| (x[row * width + col], added(row))).collect();
            for (row, value) in group.clone().zip(round(&elements)) {
                out[row * width + col] = value;
            }
        }
    }
    out
}

/// See [`super::conformance::check`]: every kind of codes, groups that are cut short, sequences that end within one.
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for format in stored().filter(|format| Compute::Int8.takes(format.codec())) {
        for (tokens, sequence, outputs, inputs) in
            [(1, 1, 9, 40), (5, 5, 33, 31), (40, 20, 67, 320), (96, 96, 130, 65), (99, 33, 24, 65)]
        {
            conformance_of(open, (tokens, sequence), GroupedShape::new(outputs, inputs, 32), format);
        }
    }
}

fn conformance_of(
    open: &dyn Fn() -> Box<dyn Backend>,
    (tokens, sequence): (usize, usize),
    shape: GroupedShape,
    format: WeightFormat,
) {
    let (outputs, inputs) = (shape.rows, shape.cols);
    let mut case = Case::new(open, tokens as u64);
    let (w, planes) = case.weight(shape, format);
    let (mut x, mut dy) = (case.numbers(tokens * inputs), case.numbers(tokens * outputs));
    // A row of zeros, a column of them, and something large.
    dy[..outputs].fill(0.0);
    x.iter_mut().step_by(inputs).for_each(|x| *x = 0.0);
    dy[outputs * tokens - 1] = 300.0;
    let (old_dx, old_grad) = (case.numbers(tokens * inputs), case.numbers(outputs * inputs));
    let (x_at, dy_at) = (case.activations(&x, inputs), case.activations(&dy, outputs));
    let (dx, grad) = (case.room_of_rows(tokens, inputs), case.room(outputs * inputs));
    let (added_dx, added_grad) = (case.activations(&old_dx, inputs), case.add(&old_grad));
    let draws = |usage| RowDraws { key: RngKey { seed: 7, step: 3, tensor: 2, usage }, first_row: 5 };
    let (of_input, of_weight) = (draws(RngUse::GradInput), draws(RngUse::GradWeight));
    case.run(MaxShapes { compute: Compute::Int8, ..MAX }, |backend| {
        for (dx, grad, accumulate) in [(dx, grad, Accumulate::No), (added_dx, added_grad, Accumulate::Yes)] {
            backend.linear_grad_input_int8(dy_at, &w, dx, accumulate, &of_input);
            backend.linear_grad_weight_int8([dy_at, x_at, grad], (outputs, inputs), accumulate, sequence, &of_weight);
        }
    });
    let values: Vec<f32> = planes.values().iter().map(|&value| value as f32).collect();
    let w = round_grad_columns(&values, inputs, outputs, None);
    let expected_dx = linear_grad_input(&round_grad_rows(&dy, outputs, &of_input), &w, inputs);
    let rounded = round_grad_columns(&dy, outputs, sequence, Some(&of_weight));
    let expected_grad = linear_grad_weight(&rounded, &round_grad_columns(&x, inputs, sequence, None), outputs);
    let sum = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a + f64::from(b)).collect::<Vec<_>>();
    let what = format!("in integers, {format} of {outputs} x {inputs}, {tokens} tokens");
    case.near_rows(dx, inputs, &expected_dx, &format!("the gradient of an input {what}"));
    case.near_rows(added_dx, inputs, &sum(&expected_dx, &old_dx), &format!("the same, added, {what}"));
    case.near_floats(grad, &expected_grad, &format!("the gradient of a weight {what}"));
    case.near_floats(added_grad, &sum(&expected_grad, &old_grad), &format!("the same, added, {what}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: RowDraws =
        RowDraws { key: RngKey { seed: 1, step: 2, tensor: 3, usage: RngUse::GradInput }, first_row: 0 };

    /// Over many draws the mean of what a gradient becomes is the gradient: within four standard errors of it.
    #[test]
    fn rounding_at_random_keeps_the_mean() {
        let row: Vec<f32> = (0..64).map(|i| (i as f32 - 40.0) * 0.013).collect();
        let draws = 4000;
        let mut sums = vec![0.0; row.len()];
        for step in 0..draws {
            let key = RngKey { step, ..DRAWS.key };
            let rounded = round_grad_rows(&row, row.len(), &RowDraws { key, ..DRAWS });
            sums.iter_mut().zip(rounded).for_each(|(sum, x)| *sum += x);
        }
        let step = 40.0 * 0.013 / 127.0;
        for (sum, &x) in sums.iter().zip(&row) {
            let error = sum / f64::from(draws) - f64::from(x);
            assert!(error.abs() < 4.0 * 0.5 * step / f64::from(draws).sqrt(), "{x}: off by {error}");
        }
    }

    #[test]
    fn integers_of_a_scale_stay_whatever_is_drawn() {
        let row: Vec<f32> = (-64..64).map(|i| i as f32).chain([127.0, -127.0]).collect();
        for step in 0..200 {
            let key = RngKey { step, ..DRAWS.key };
            let rounded = round_grad_columns(&row, 1, 1, Some(&RowDraws { key, ..DRAWS }));
            assert!(rounded.iter().zip(&row).all(|(a, &b)| (a - f64::from(b)).abs() <= 1e-6 * f64::from(b.abs())));
        }
        assert_eq!(DRAWS.added(0, 0, 1) + DRAWS.added(0, 0, 1), 2.0 * (DRAWS.key.uniform_at(0) + FIRST_ADDED));
    }
}
