//! Activations times a number, with elements left out, and summed in groups: what adapters need beside products.

use super::Accumulate;
use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;
use crate::quant::{BLOCK, RngKey, RngUse};

/// Which elements are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutArgs {
    /// Of the random numbers; those of an element are counted in rows that are padded to whole blocks.
    pub key: RngKey,
    /// The number of the first row.
    pub first_row: usize,
    /// The probability that an element is left out: at least 0, below 1.
    pub probability: f32,
}

impl DropoutArgs {
    /// What elements that stay are multiplied by.
    pub fn factor(&self) -> f32 {
        1.0 / (1.0 - self.probability)
    }

    /// The number of the first element of row `row`, counted from `first_row` on.
    pub fn element(&self, row: usize, width: usize) -> u64 {
        ((self.first_row + row) * width.next_multiple_of(BLOCK)) as u64
    }
}

/// Scaling of activations, sums of their groups, and the gradients of both.
pub trait ActivationScaling {
    /// `x = factor x`, or `factor learned x`: `x` is activations `[T, width]`, `learned` one float32.
    fn scale_rows(&mut self, x: Span, width: usize, factor: f32, learned: Option<Span>);

    /// `grad = factor sum of x dy` over all elements of two activations `[T, width]`: the gradient of `learned`. `grad` is
    /// one float32. Rows are added in order, so that with [`Accumulate::Yes`] the parts of a batch give the bits of the
    /// whole on a CPU.
    fn scale_grad(&mut self, x: Span, dy: Span, width: usize, factor: f32, grad: Span, accumulate: Accumulate);

    /// `out = x / (1 - p)` where an element stays, 0 where it is left out, which is where its random number is below p.
    /// `x` and `out` are activations `[T, width]`.
    fn dropout(&mut self, x: Span, out: Span, width: usize, args: &DropoutArgs, accumulate: Accumulate);

    /// `out[t, g] = sum of x[t, i]` over the `group` features i of group g, in order; the last group of a row may be short.
    /// `x` is activations `[T, width]`, `out` has as many features as a row has groups.
    fn sum_groups(&mut self, x: Span, out: Span, width: usize, group: usize);

    /// `dx[t, i] = dout[t, g]` for each feature i of group g: the gradient of [`ActivationScaling::sum_groups`].
    fn sum_groups_grad(&mut self, dout: Span, dx: Span, width: usize, group: usize, accumulate: Accumulate);
}

/// Sums of the groups of rows.
pub fn sum_groups(x: &[f64], width: usize, group: usize) -> Vec<f64> {
    x.chunks(width).flat_map(|row| row.chunks(group).map(|group| group.iter().sum())).collect()
}

/// What is left of rows.
pub fn dropout(x: &[f64], width: usize, args: &DropoutArgs) -> Vec<f64> {
    let stays = |i: usize| args.key.uniform_at(args.element(i / width, width) + (i % width) as u64) >= args.probability;
    x.iter().enumerate().map(|(i, x)| if stays(i) { x * f64::from(args.factor()) } else { 0.0 }).collect()
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (tokens, width, first_row) in [(1, 1, 0), (7, 40, 3), (70, 33, 5)] {
        let mut case = Case::new(open, width as u64);
        let [x, y] = [(); 2].map(|()| case.numbers(tokens * width));
        let [learned, old] = [0.75f32, -1.5];
        let [x_at, y_at, scaled, twice] = [&x, &y, &x, &x].map(|values| case.activations(values, width));
        let (learned_at, grad, added) = (case.add(&[learned]), case.room(1), case.add(&[old]));
        let (out, more) = (case.room_of_rows(tokens, width), case.activations(&y, width));
        let key = RngKey { seed: 9, step: 4, tensor: 30, usage: RngUse::Dropout };
        let args = DropoutArgs { key, first_row, probability: 0.25 };
        case.run(MAX, |backend| {
            backend.scale_rows(scaled, width, 0.5, None);
            backend.scale_rows(twice, width, 2.0, Some(learned_at));
            backend.scale_grad(x_at, y_at, width, 0.5, grad, Accumulate::No);
            backend.scale_grad(x_at, y_at, width, 0.5, added, Accumulate::Yes);
            backend.dropout(x_at, out, width, &args, Accumulate::No);
            backend.dropout(x_at, more, width, &args, Accumulate::Yes);
        });
        let [x, y] = [x, y].map(|values| wide(&values));
        let by = |factor: f64| x.iter().map(|x| factor * x).collect::<Vec<_>>();
        case.near_rows(scaled, width, &by(0.5), "scaled activations");
        case.near_rows(twice, width, &by(2.0 * f64::from(learned)), "activations with a learned scale");
        let sum = 0.5 * x.iter().zip(&y).map(|(x, y)| x * y).sum::<f64>();
        case.near_floats(grad, &[sum], "the gradient of a scale");
        case.near_floats(added, &[sum + f64::from(old)], "the gradient of a scale, added");
        let left = dropout(&x, width, &args);
        case.near_rows(out, width, &left, "activations with elements left out");
        let both = left.iter().zip(&y).map(|(left, y)| left + y).collect::<Vec<_>>();
        case.near_rows(more, width, &both, "activations with elements left out, added");
    }
    for (tokens, width, group) in [(1, 1, 32), (7, 40, 32), (9, 65, 5)] as [(usize, usize, usize); 3] {
        let groups = width.div_ceil(group);
        let mut case = Case::new(open, width as u64);
        let (x, dout) = (case.numbers(tokens * width), case.numbers(tokens * groups));
        let (x_at, dout_at) = (case.activations(&x, width), case.activations(&dout, groups));
        let (out, dx) = (case.room_of_rows(tokens, groups), case.room_of_rows(tokens, width));
        let more = case.activations(&x, width);
        case.run(MAX, |backend| {
            backend.sum_groups(x_at, out, width, group);
            backend.sum_groups_grad(dout_at, dx, width, group, Accumulate::No);
            backend.sum_groups_grad(dout_at, more, width, group, Accumulate::Yes);
        });
        let spread = |i: usize| f64::from(dout[i / width * groups + i % width / group]);
        case.near_rows(out, groups, &sum_groups(&wide(&x), width, group), "sums of groups");
        case.near_rows(dx, width, &(0..x.len()).map(spread).collect::<Vec<_>>(), "the gradient of sums of groups");
        let both = (0..x.len()).map(|i| spread(i) + f64::from(x[i])).collect::<Vec<_>>();
        case.near_rows(more, width, &both, "the gradient of sums of groups, added");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_elements_are_left_out_as_asked_for_and_parts_of_a_batch_leave_out_the_same() {
        let key = RngKey { seed: 1, step: 1, tensor: 0, usage: RngUse::Dropout };
        let args = DropoutArgs { key, first_row: 0, probability: 0.25 };
        let (rows, width) = (500, 41);
        let all = dropout(&vec![1.0; rows * width], width, &args);
        let left_out = all.iter().filter(|&&x| x == 0.0).count() as f64 / all.len() as f64;
        // Four standard errors.
        assert!((left_out - 0.25).abs() < 0.0121, "{left_out}");
        assert!(all.iter().all(|&x| x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6));
        let part = dropout(&vec![1.0; 10 * width], width, &DropoutArgs { first_row: 300, ..args });
        assert_eq!(part, all[300 * width..310 * width]);
    }
}
