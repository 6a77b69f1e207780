//! A bias and its gradient.

use crate::harness::operands::{Harness, Random};
use tetrad::backend::Accumulate;

#[test]
fn bias_and_gradient_at_odd_widths() {
    for (tokens, width) in [(1, 1), (7, 31), (64, 33), (65, 40), (129, 257), (300, 5)] {
        let (mut random, mut harness) = (Random(width as u64), Harness::default());
        let (x, dy, bias) = (random.floats(tokens * width), random.floats(tokens * width), random.floats(width));
        let (x_at, dy_at, bias_at, grad) =
            (harness.add(&x[..]), harness.add(&dy[..]), harness.add(&bias[..]), harness.out(width));
        let sums = (0..width).map(|i| dy.iter().skip(i).step_by(width).map(|&x| f64::from(x)).sum()).collect();
        let added = x.iter().enumerate().map(|(i, &x)| f64::from(x) + f64::from(bias[i % width])).collect();
        // Sums of up to 300 numbers of about one: a few hundred roundings of 6e-8.
        harness.check(&[(x_at, added), (grad, sums)], 1e-5, |cpu| {
            cpu.add_bias(x_at, bias_at, width);
            cpu.bias_grad(dy_at, grad, width, Accumulate::No);
        });
    }
}
