//! Biases and their gradient.

use super::isa::{Isa, vectorized};
use super::work::{Need, Scratch};

/// Rows of a task. A bias's gradient is summed over so many rows first, then over the blocks, both in order: the same
/// bits for any number of threads. The partial sums need as much scratch as those of a norm's gain of the same width.
const BLOCK: usize = 64;

/// `x[t] += bias`.
pub(super) fn add_bias(isa: Isa, mut scratch: Scratch<'_>, x: &mut [f32], bias: &[f32], width: usize) {
    assert!(bias.len() == width && x.len().is_multiple_of(width), "whole rows");
    let (_, mut areas) = scratch.split(Need::default());
    areas.run(x.chunks_mut(BLOCK * width), |x, _| add_rows(isa, x, bias));
}

vectorized! {
    fn add_rows(x: &mut [f32], bias: &[f32]) {
        for x in x.chunks_exact_mut(bias.len()) {
            for (x, &bias) in x.iter_mut().zip(bias) {
                *x += bias;
            }
        }
    }
}

/// `grad = sum over t of dy[t]`.
pub(super) fn bias_grad(isa: Isa, mut scratch: Scratch<'_>, dy: &[f32], grad: &mut [f32], width: usize) {
    assert!(grad.len() == width && dy.len().is_multiple_of(width), "whole rows");
    let blocks = dy.len().div_ceil(BLOCK * width);
    let (partial, mut areas) = scratch.split(Need { shared: blocks * width, private: 0 });
    let tasks = dy.chunks(BLOCK * width).zip(partial.chunks_exact_mut(width));
    areas.run(tasks, |(dy, partial), _| sum_rows(isa, dy, partial));
    grad.fill(0.0);
    for partial in partial.chunks_exact(width) {
        for (sum, &part) in grad.iter_mut().zip(partial) {
            *sum += part;
        }
    }
}

vectorized! {
    fn sum_rows(dy: &[f32], sums: &mut [f32]) {
        sums.fill(0.0);
        for dy in dy.chunks_exact(sums.len()) {
            for (sum, &dy) in sums.iter_mut().zip(dy) {
                *sum += dy;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Rig};
    use crate::backend::Backend;

    #[test]
    fn bias_and_gradient_at_odd_widths() {
        for (tokens, width) in [(1, 1), (7, 31), (64, 33), (65, 40), (129, 257), (300, 5)] {
            let (mut random, mut rig) = (Random(width as u64), Rig::default());
            let (x, dy, bias) = (random.floats(tokens * width), random.floats(tokens * width), random.floats(width));
            let (x_at, dy_at, bias_at, grad) = (rig.add(&x[..]), rig.add(&dy[..]), rig.add(&bias[..]), rig.out(width));
            let sums = (0..width).map(|i| dy.iter().skip(i).step_by(width).map(|&x| f64::from(x)).sum()).collect();
            let added = x.iter().enumerate().map(|(i, &x)| f64::from(x) + f64::from(bias[i % width])).collect();
            // Sums of up to 300 numbers of about one: a few hundred roundings of 6e-8.
            rig.check(&[(x_at, added), (grad, sums)], 1e-5, |cpu| {
                cpu.add_bias(x_at, bias_at, width);
                cpu.bias_grad(dy_at, grad, width);
            });
        }
    }
}
