//! Products with a weight.

use super::conformance::{Case, MAX, simulated, stored};
use super::reference::wide;
use super::{Accumulate, Compute, RowDraws};
use crate::backend::{Backend, MaxShapes, Weight};
use crate::memory::Span;
use crate::quant::{GroupedShape, WeightFormat};
use half::bf16;

/// A linear layer and its gradients.
pub trait Linear {
    /// `y[T, O] = x[T, I] w[O, I]^T`.
    fn linear(&mut self, x: Span, w: &Weight, y: Span, accumulate: Accumulate);

    /// The same added to `onto[T, O]`, which stays as it is: `y = onto + x w^T`.
    fn linear_onto(&mut self, x: Span, w: &Weight, onto: Span, y: Span);

    /// Several products of one input, each as [`Linear::linear`] sets it: a device that
    /// [joins products](crate::backend::DeviceInfo::joins_products) of one shape starts them at once.
    fn linear_joined(&mut self, x: Span, products: &[(&Weight, Span)]) {
        products.iter().for_each(|&(w, y)| self.linear(x, w, y, Accumulate::No));
    }

    /// Several products of one input with both operands rounded to bfloat16, halves to the even neighbour, each set or added to
    /// as `accumulate` says.
    ///
    /// On a CPU elements below 2^-32 count as 0. A sum begins with what it is added to; for each 32 products in turn the even
    /// and the odd ones are summed, each by fused additions from 0 in their order, and these two sums' sum is added. So the bits
    /// are the same on every CPU, but for numbers below 2^-126 and above 2^127.
    ///
    /// Only a device has it whose workspace was planned for [`Compute::Bf16`]. As written here it is for those whose
    /// activations are bfloat16 already.
    fn linear_bf16(&mut self, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate) {
        products.iter().for_each(|&(w, y)| self.linear(x, w, y, accumulate));
    }

    /// The same with each row of `x` rounded to eight bits in groups as long as those of a weight, if that is stored as codes;
    /// else it is [`Linear::linear`]. An element becomes `s round(x k)`, halves to the even neighbour, with `s = most / 127` and
    /// `k = 127 / most` of the group's largest magnitude; `k` is 0 where that quotient is not finite, and `s` is NaN in a group
    /// with what is not finite. A group's products with codes are summed in integers, which no rounding enters.
    ///
    /// Only a device whose [`check_compute`](crate::backend::DeviceInfo::check_compute) allows [`Compute::Int8`] has it, and
    /// workspace that was planned for it.
    ///
    /// # Panics
    /// On other devices.
    fn linear_int8(&mut self, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate);

    /// The same with each row of `x` rounded to E4M3, floats of four exponent bits (bias 7, the largest 448) and three of
    /// mantissa, if the weight's codes are such floats ([`Compute::takes`]); else it is [`Linear::linear`]. An
    /// element becomes `s round(x k)`, halves to the even neighbour, with `s = most / 448` and `k = 448 / most` as for
    /// integers. Groups are added in float32.
    ///
    /// Within a group sums are float32 on a CPU, and on a GPU what its tensor cores keep. Those of Hopper are known to drop bits
    /// further than 13 below the largest of 32 products and the sum so far (arXiv 2412.19437, 3.5.2): at most `33 / 8192` of the
    /// magnitudes in a group for each 32 of its products.
    ///
    /// # Panics
    /// As [`Linear::linear_int8`].
    fn linear_fp8(&mut self, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate);

    /// Several products of one input in an arithmetic, each set or added to as `accumulate` says.
    ///
    /// # Panics
    /// As the product of that arithmetic.
    fn linear_in(&mut self, compute: Compute, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate) {
        match compute {
            Compute::F32 => products.iter().for_each(|&(w, y)| self.linear(x, w, y, accumulate)),
            Compute::Bf16 => self.linear_bf16(x, products, accumulate),
            Compute::Int8 => self.linear_int8(x, products, accumulate),
            Compute::Fp8 => self.linear_fp8(x, products, accumulate),
        }
    }

    /// `dx[T, I] = dy[T, O] w[O, I]`.
    fn linear_grad_input(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate);

    /// [`Linear::linear_grad_input`] as [`Linear::linear_bf16`] computes; elements of `dy` below 2^-80 count as 0.
    fn linear_grad_input_bf16(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate) {
        self.linear_grad_input(dy, w, dx, accumulate);
    }

    /// `grad[O, I] = dy[T, O]^T x[T, I]`, float32; `rows` is O, `cols` I.
    fn linear_grad_weight(&mut self, dy: Span, x: Span, grad: Span, rows: usize, cols: usize, accumulate: Accumulate);

    /// The same for `[dy, x, grad]` and `(O, I)` as [`Linear::linear_bf16`] computes; elements of `dy` below 2^-80 count as 0. The
    /// tokens are sequences of `sequence`, and each begins a new 32 products: a batch in parts of whole sequences gives the bits of
    /// the whole.
    ///
    /// # Panics
    /// If the tokens are not whole sequences.
    fn linear_grad_weight_bf16(
        &mut self,
        [dy, x, grad]: [Span; 3],
        (rows, cols): (usize, usize),
        accumulate: Accumulate,
        _sequence: usize,
    ) {
        self.linear_grad_weight(dy, x, grad, rows, cols, accumulate);
    }

    /// [`Linear::linear_grad_input`] as sums of integers, by weights that are codes. Along a sum
    /// [`GRAD_GROUP`](crate::backend::GRAD_GROUP) outputs are a group: of each row of `dy`, and of each column of `w`, which becomes
    /// integers of eight bits anew, as its own scales are not common to a sum. An element becomes `s c` with `s` and `k` as for
    /// [`Linear::linear_int8`]; `c` is the integer nearest to `x k` in `w`, and in `dy` to `x k + u + 2^-17 - 1/2`, at most 127, with
    /// `u` the random number of the element: so the mean of what a gradient becomes is the gradient. A group's products are summed
    /// in integers, groups in float32.
    ///
    /// Only a device whose workspace was planned for [`Compute::Int8`] has it.
    ///
    /// # Panics
    /// On other devices, or if the weight is stored as floats.
    fn linear_grad_input_int8(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate, draws: &RowDraws);

    /// [`Linear::linear_grad_weight`] of `[dy, x, grad]` and `(O, I)` likewise: [`GRAD_GROUP`](crate::backend::GRAD_GROUP) tokens of
    /// a column are a group, of `dy` rounded at random, of `x` to the nearest. Groups begin anew with every `sequence` tokens: a
    /// batch in parts of whole sequences gives the bits of the whole.
    ///
    /// # Panics
    /// On other devices, or if the tokens are not whole sequences.
    fn linear_grad_weight_int8(
        &mut self,
        operands: [Span; 3],
        shape: (usize, usize),
        accumulate: Accumulate,
        sequence: usize,
        draws: &RowDraws,
    );

    /// [`Linear::linear_grad_weight`] for several weights of one shape and one input: pairs of `dy` and `grad`.
    fn linear_grad_weight_joined(
        &mut self,
        x: Span,
        grads: &[(Span, Span)],
        (rows, cols): (usize, usize),
        accumulate: Accumulate,
    ) {
        grads.iter().for_each(|&(dy, grad)| self.linear_grad_weight(dy, x, grad, rows, cols, accumulate));
    }
}

/// `x[T, I] w[O, I]^T`.
pub fn linear(x: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    multiply(x, &transpose(w, outputs, inputs), (x.len() / inputs, inputs, outputs))
}

/// Rows of activations as [`Linear::linear_int8`] rounds them, in groups of `group`.
pub fn round_int8(x: &[f32], inputs: usize, group: usize) -> Vec<f64> {
    round_groups(x, inputs, group, 127.0, |x| f64::from(x.round_ties_even()))
}

/// Rows of activations as [`Linear::linear_fp8`] rounds them, in groups of `group`.
pub fn round_fp8(x: &[f32], inputs: usize, group: usize) -> Vec<f64> {
    round_groups(x, inputs, group, 448.0, |x| round_e4m3(f64::from(x)))
}

/// Numbers of a normal magnitude rounded to bfloat16, halves to the even neighbour.
pub fn round_bf16(x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| bf16::from_f32(x as f32).to_f64()).collect()
}

/// The nearest E4M3 float of a magnitude up to 448, halves to the even neighbour.
fn round_e4m3(x: f64) -> f64 {
    if x == 0.0 || x.is_nan() {
        return x;
    }
    // Eight steps between powers of two, and below the smallest as there.
    let step = 2f64.powi((x.abs().log2().floor() as i32).max(-6) - 3);
    (x / step).round_ties_even() * step
}

/// Groups of rows under scales by which the largest magnitude is `largest`, rounded there by `round`.
fn round_groups(x: &[f32], inputs: usize, group: usize, largest: f32, round: impl Fn(f32) -> f64) -> Vec<f64> {
    let groups = x.chunks(inputs).flat_map(|row| row.chunks(group));
    let rounded = |group: &[f32]| {
        let most = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let finite = group.iter().all(|x| x.is_finite());
        let scale = if finite { most / largest } else { f32::NAN };
        let steps = if finite && (largest / most).is_finite() { largest / most } else { 0.0 };
        group.iter().map(|x| f64::from(scale) * round(x * steps)).collect::<Vec<_>>()
    };
    groups.flat_map(rounded).collect()
}

/// `dy[T, O] w[O, I]`.
pub fn linear_grad_input(dy: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    multiply(dy, w, (dy.len() / outputs, outputs, inputs))
}

/// `dy[T, O]^T x[T, I]`.
pub fn linear_grad_weight(dy: &[f64], x: &[f64], outputs: usize) -> Vec<f64> {
    let tokens = dy.len() / outputs;
    multiply(&transpose(dy, tokens, outputs), x, (outputs, tokens, x.len() / tokens))
}

/// `a[m, k] b[k, n]`.
fn multiply(a: &[f64], b: &[f64], (m, k, n): (usize, usize, usize)) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for l in 0..k {
            for j in 0..n {
                out[i * n + j] += a[i * k + l] * b[l * n + j];
            }
        }
    }
    out
}

fn transpose(a: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..rows * cols).map(|i| a[i % rows * cols + i / rows]).collect()
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for format in stored().chain(simulated()) {
        for (tokens, outputs, inputs) in [(1, 9, 40), (5, 33, 31), (40, 24, 65)] {
            conformance_of(open, tokens, GroupedShape::new(outputs, inputs, 32), format);
        }
    }
    for compute in [Compute::Int8, Compute::Fp8] {
        conformance_rounded(open, compute);
        conformance_of_several(open, compute);
    }
    conformance_bf16(open);
}

/// Every kind of weight, sums of several blocks and of parts of one; sequences that end within a block.
fn conformance_bf16(open: &dyn Fn() -> Box<dyn Backend>) {
    for format in stored().chain(simulated()) {
        for (tokens, sequence, outputs, inputs) in
            [(5, 5, 33, 31), (40, 20, 67, 320), (70, 70, 8, 40), (99, 33, 24, 65)]
        {
            let shape = GroupedShape::new(outputs, inputs, 32);
            let mut case = Case::new(open, tokens as u64);
            let ((w, planes), (other, other_planes)) = (case.weight(shape, format), case.weight(shape, format));
            let (x, dy) = (case.numbers(tokens * inputs), case.numbers(tokens * outputs));
            let (old_y, old_dx) = (case.numbers(tokens * outputs), case.numbers(tokens * inputs));
            let old_grad = case.numbers(outputs * inputs);
            let (x_at, dy_at) = (case.activations(&x, inputs), case.activations(&dy, outputs));
            let [y, y_other] = [(); 2].map(|()| case.room_of_rows(tokens, outputs));
            let (added_y, added_dx) = (case.activations(&old_y, outputs), case.activations(&old_dx, inputs));
            let (dx, grad, added_grad) =
                (case.room_of_rows(tokens, inputs), case.room(outputs * inputs), case.add(&old_grad));
            case.run(MaxShapes { compute: Compute::Bf16, ..MAX }, |backend| {
                backend.linear_bf16(x_at, &[(&w, y), (&other, y_other)], Accumulate::No);
                backend.linear_bf16(x_at, &[(&w, added_y)], Accumulate::Yes);
                backend.linear_grad_input_bf16(dy_at, &w, dx, Accumulate::No);
                backend.linear_grad_input_bf16(dy_at, &w, added_dx, Accumulate::Yes);
                for (grad, accumulate) in [(grad, Accumulate::No), (added_grad, Accumulate::Yes)] {
                    let operands = [dy_at, x_at, grad];
                    backend.linear_grad_weight_bf16(operands, (outputs, inputs), accumulate, sequence);
                }
            });
            let (x, dy) = (wide(&x), wide(&dy));
            let [w, other] = [planes, other_planes].map(|planes| round_bf16(&planes.values()));
            let sum = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a + f64::from(b)).collect::<Vec<_>>();
            let what = format!("in bf16, {format} of {outputs} x {inputs}, {tokens} tokens");
            let expected = linear(&x, &w, inputs);
            case.near_rows(y, outputs, &expected, &format!("a product {what}"));
            case.near_rows(y_other, outputs, &linear(&x, &other, inputs), &format!("a second product {what}"));
            case.near_rows(added_y, outputs, &sum(&expected, &old_y), &format!("a product, added, {what}"));
            let expected = linear_grad_input(&dy, &w, inputs);
            case.near_rows(dx, inputs, &expected, &format!("the gradient of an input {what}"));
            case.near_rows(added_dx, inputs, &sum(&expected, &old_dx), &format!("the same, added, {what}"));
            let expected = linear_grad_weight(&dy, &x, outputs);
            case.near_floats(grad, &expected, &format!("the gradient of a weight {what}"));
            case.near_floats(added_grad, &sum(&expected, &old_grad), &format!("the same, added, {what}"));
        }
    }
}

/// Two products of one input, with weights alike and of other groups and formats: bit for bit those of each by itself.
fn conformance_of_several(open: &dyn Fn() -> Box<dyn Backend>, compute: Compute) {
    if open().check_compute(compute).is_err() {
        return;
    }
    for tokens in [2, 11] {
        let mut case = Case::new(open, tokens as u64);
        let inputs = 150;
        let x = case.numbers(tokens * inputs);
        let x = case.activations(&x, inputs);
        let kinds: Vec<_> = stored().flat_map(|format| [32, 128].map(|group| (format, group))).collect();
        // Each beside another of its kind, and beside the next.
        let pairs = kinds.iter().zip(kinds.iter().cycle().skip(1)).flat_map(|(a, b)| [[a, a], [a, b]]);
        let weights: Vec<Weight> = (pairs.flatten().enumerate())
            .map(|(i, &(format, group))| case.weight(GroupedShape::new(9 + i % 3 * 40, inputs, group), format).0)
            .collect();
        let places: Vec<[Span; 2]> =
            weights.iter().map(|w| [(); 2].map(|()| case.room_of_rows(tokens, w.shape.rows))).collect();
        case.run(MaxShapes { compute, ..MAX }, |backend| {
            for (w, places) in weights.chunks_exact(2).zip(places.chunks_exact(2)) {
                backend.linear_in(compute, x, &[(&w[0], places[0][0]), (&w[1], places[1][0])], Accumulate::No);
                for (w, [_, alone]) in w.iter().zip(places) {
                    backend.linear_in(compute, x, &[(w, *alone)], Accumulate::No);
                }
            }
        });
        for (i, (w, [joined, alone])) in weights.iter().zip(places).enumerate() {
            let width = w.shape.rows;
            let what = format!("product {} of pair {}, {}, {tokens} tokens", i % 2, i / 2, compute.name());
            assert_eq!(case.rows(joined, width), case.rows(alone, width), "{what}");
        }
    }
}

/// Codes of each kind, groups of each size, rows that end within a group; products beside the codes' values and the inputs
/// that [`round_int8`] or [`round_fp8`] makes, where the device has them.
fn conformance_rounded(open: &dyn Fn() -> Box<dyn Backend>, compute: Compute) {
    if open().check_compute(compute).is_err() {
        return;
    }
    for format in stored() {
        for (tokens, outputs, inputs, group) in
            [(1, 9, 40, 32), (3, 33, 290, 64), (5, 33, 31, 32), (40, 67, 320, 128), (13, 8, 260, 256)]
        {
            let shape = GroupedShape::new(outputs, inputs, group);
            let mut case = Case::new(open, tokens as u64);
            let (w, planes) = case.weight(shape, format);
            let mut x = case.numbers(tokens * inputs);
            // A group of zeros, and one of a large number and small ones.
            x[..group.min(inputs)].fill(0.0);
            x[inputs * tokens - 1] = 300.0;
            let old = case.numbers(tokens * outputs);
            let (x_at, y, added) =
                (case.activations(&x, inputs), case.room_of_rows(tokens, outputs), case.activations(&old, outputs));
            let plain = case.room_of_rows(tokens, outputs);
            case.run(MaxShapes { compute, ..MAX }, |backend| {
                backend.linear(x_at, &w, plain, Accumulate::No);
                for (y, accumulate) in [(y, Accumulate::No), (added, Accumulate::Yes)] {
                    backend.linear_in(compute, x_at, &[(&w, y)], accumulate);
                }
            });
            let of = |rounded: Vec<f64>| linear(&rounded, &planes.values(), inputs);
            let expected = match compute {
                // The same product, whose own reference is met elsewhere.
                _ if !compute.takes(format.codec()) => case.rows(plain, outputs),
                Compute::Fp8 => of(round_fp8(&x, inputs, group)),
                _ => of(round_int8(&x, inputs, group)),
            };
            let what = format!(
                "a product in {}, {format} of {outputs} x {inputs} in groups of {group}, {tokens} tokens",
                compute.name()
            );
            case.near_rows(y, outputs, &expected, &what);
            let sum: Vec<f64> = expected.iter().zip(&old).map(|(a, &b)| a + f64::from(b)).collect();
            case.near_rows(added, outputs, &sum, &format!("{what}, added"));
        }
    }
}

fn conformance_of(open: &dyn Fn() -> Box<dyn Backend>, tokens: usize, shape: GroupedShape, format: WeightFormat) {
    let (rows, cols) = (shape.rows, shape.cols);
    let mut case = Case::new(open, tokens as u64);
    let (w, planes) = case.weight(shape, format);
    let (x, dy) = (case.numbers(tokens * cols), case.numbers(tokens * rows));
    let (old_y, old_grad) = (case.numbers(tokens * rows), case.numbers(rows * cols));
    let (x_at, dy_at) = (case.activations(&x, cols), case.activations(&dy, rows));
    let (y, dx, grad) = (case.room_of_rows(tokens, rows), case.room_of_rows(tokens, cols), case.room(rows * cols));
    let (added_y, added_grad) = (case.activations(&old_y, rows), case.add(&old_grad));
    // Two weights and one input; one behind the other, as devices want what they join.
    let (other, other_planes) = case.weight(shape, format);
    let other_dy = case.numbers(tokens * rows);
    let dys = [&dy, &other_dy].map(|dy| case.activations(dy, rows));
    let joined = [(); 2].map(|()| case.room_of_rows(tokens, rows));
    let grads = [(); 2].map(|()| case.add(&old_grad));
    let (onto, sum_y) = (case.activations(&old_y, rows), case.room_of_rows(tokens, rows));
    case.run(MAX, |backend| {
        backend.linear(x_at, &w, y, Accumulate::No);
        backend.linear(x_at, &w, added_y, Accumulate::Yes);
        backend.linear_grad_input(dy_at, &w, dx, Accumulate::No);
        backend.linear_grad_weight(dy_at, x_at, grad, rows, cols, Accumulate::No);
        backend.linear_grad_weight(dy_at, x_at, added_grad, rows, cols, Accumulate::Yes);
        backend.linear_onto(x_at, &w, onto, sum_y);
        backend.linear_joined(x_at, &[(&w, joined[0]), (&other, joined[1])]);
        let pairs = [(dys[0], grads[0]), (dys[1], grads[1])];
        backend.linear_grad_weight_joined(x_at, &pairs, (rows, cols), Accumulate::Yes);
    });
    let (x, dy, values) = (wide(&x), wide(&dy), planes.values());
    let (expected_y, expected_grad) = (linear(&x, &values, cols), linear_grad_weight(&dy, &x, rows));
    let sum = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a + f64::from(b)).collect::<Vec<_>>();
    let what = format!("{format} of {rows} x {cols}, {tokens} tokens");
    case.near_rows(y, rows, &expected_y, &format!("a product, {what}"));
    case.near_rows(added_y, rows, &sum(&expected_y, &old_y), &format!("a product, added, {what}"));
    case.near_rows(dx, cols, &linear_grad_input(&dy, &values, cols), &format!("the gradient of an input, {what}"));
    case.near_floats(grad, &expected_grad, &format!("the gradient of a weight, {what}"));
    case.near_floats(added_grad, &sum(&expected_grad, &old_grad), &format!("the gradient of a weight, added, {what}"));
    case.near_rows(sum_y, rows, &sum(&expected_y, &old_y), &format!("a product onto another matrix, {what}"));
    case.near_rows(onto, rows, &wide(&old_y), &format!("what a product was added to, {what}"));
    let both = [(expected_y, expected_grad), {
        let grad = linear_grad_weight(&wide(&other_dy), &x, rows);
        (linear(&x, &other_planes.values(), cols), grad)
    }];
    for (i, (y, grad)) in both.iter().enumerate() {
        case.near_rows(joined[i], rows, y, &format!("joined product {i}, {what}"));
        case.near_floats(grads[i], &sum(grad, &old_grad), &format!("joined gradient {i} of a weight, {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All floats of the format, in ascending order.
    fn all() -> Vec<f64> {
        let magnitude = |bits: i32| {
            let (exponent, mantissa) = (bits >> 3, f64::from(bits & 7));
            if exponent == 0 { mantissa * 2f64.powi(-9) } else { (8.0 + mantissa) * 2f64.powi(exponent - 10) }
        };
        (1..=126).rev().map(|bits| -magnitude(bits)).chain((0..=126).map(magnitude)).collect()
    }

    #[test]
    fn small_floats_stay_and_what_is_between_two_goes_to_the_nearer() {
        let all = all();
        assert_eq!((all[0], all.len()), (-448.0, 253));
        for (i, pair) in all.windows(2).enumerate() {
            let (low, high) = (pair[0], pair[1]);
            let middle = (low + high) / 2.0;
            let even = if i % 2 == 0 { low } else { high };
            assert_eq!([low, high, middle].map(round_e4m3), [low, high, even], "{low} and {high}");
            let inside = [low + 0.49 * (high - low), low + 0.51 * (high - low)];
            assert_eq!(inside.map(round_e4m3), [low, high], "{low} and {high}");
        }
    }

    #[test]
    fn four_bit_codes_are_small_floats() {
        for value in (-8..16).map(f64::from).chain([0.5, 1.5]) {
            assert_eq!(round_e4m3(value), value);
        }
        assert!(round_e4m3(17.0) != 17.0, "integers of eight bits are not");
    }

    #[test]
    fn groups_are_rounded_under_their_own_scales() {
        let x = [1.0f32, -0.5, 0.3, 448.0, 200.0, 0.0];
        let rounded = round_fp8(&x, 6, 3);
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-7 * b.abs();
        assert!(near(rounded[0], 1.0) && near(rounded[1], -0.5), "{rounded:?}");
        // 0.3 of 1 is 134.4 of 448, between 128 and 144.
        assert!(near(rounded[2], 128.0 / 448.0), "{rounded:?}");
        assert_eq!(rounded[3..], [448.0, 192.0, 0.0]);
        assert!(round_fp8(&[1.0, f32::INFINITY], 2, 32).iter().all(|x| x.is_nan()));
    }
}
