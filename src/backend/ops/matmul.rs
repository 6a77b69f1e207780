//! Products of float32 matrices, for rules.

use super::Precision;
use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
use crate::memory::Span;

/// How an operand of a product lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As it is multiplied.
    Plain,
    /// Transposed.
    Transposed,
}

/// Operands of [`MatMul::matmul`]; all are float32 and row-major, without padding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatMulArgs {
    /// A, `[rows, inner]`; transposed it lies as `[inner, rows]`.
    pub a: (Span, Layout),
    /// B, `[inner, cols]`; transposed it lies as `[cols, inner]`. It may be the same span as A.
    pub b: (Span, Layout),
    /// C, `[rows, cols]`; it is neither operand.
    pub out: Span,
    /// Rows of A and of C.
    pub rows: usize,
    /// Columns of A, rows of B; at least 1.
    pub inner: usize,
    /// Columns of B and of C.
    pub cols: usize,
    /// What the product is multiplied by.
    pub alpha: f32,
    /// What the former C is multiplied by before the product is added; 0: C is not read.
    pub beta: f32,
    /// What the two terms and their sum are each rounded to.
    pub precision: Precision,
}

/// Products of matrices that are no weights: what rules compute with gradients and state.
pub trait MatMul {
    /// `C = alpha A B + beta C`.
    ///
    /// An element of A B is summed in the order of the inner dimension, by fused multiplications and additions, in runs of
    /// 256 products, each of which starts at 0 and is then added to the sum of those before. The bits depend neither on
    /// the number of threads nor on the device; a processor without AVX2 rounds each product before it adds it.
    ///
    /// # Panics
    /// If a span has another length than the shape says, or the inner dimension is 0.
    fn matmul(&mut self, args: &MatMulArgs);
}

/// `alpha A B + beta C`, for operands as they lie in memory.
pub fn matmul(args: &MatMulArgs, a: &[f64], b: &[f64], out: &[f64]) -> Vec<f64> {
    let &MatMulArgs { rows, inner, cols, alpha, beta, precision, .. } = args;
    let round = |x: f64| if precision == Precision::F32 { x } else { f64::from(precision.round(x as f32)) };
    let a_at = |i: usize, k: usize| if args.a.1 == Layout::Plain { a[i * inner + k] } else { a[k * rows + i] };
    let b_at = |k: usize, j: usize| if args.b.1 == Layout::Plain { b[k * cols + j] } else { b[j * inner + k] };
    let element = |e: usize| {
        let sum: f64 = (0..inner).map(|k| a_at(e / cols, k) * b_at(k, e % cols)).sum();
        let product = round(f64::from(alpha) * sum);
        if beta == 0.0 { product } else { round(product + round(f64::from(beta) * out[e])) }
    };
    (0..rows * cols).map(element).collect()
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    use Layout::{Plain, Transposed};
    let layouts = [(Plain, Plain), (Plain, Transposed), (Transposed, Plain), (Transposed, Transposed)];
    for (number, (rows, inner, cols)) in [(1, 1, 1), (5, 300, 70), (33, 7, 65)].into_iter().enumerate() {
        for (i, (a_layout, b_layout)) in layouts.into_iter().enumerate() {
            // C is not a number where it must not be read.
            let (alpha, beta) = if i.is_multiple_of(2) { (1.0, 0.0) } else { (0.5, -2.0) };
            let mut case = Case::new(open, (8 * number + i) as u64);
            let [a, b] = [rows * inner, inner * cols].map(|count| case.numbers(count));
            let old = if beta == 0.0 { vec![f32::NAN; rows * cols] } else { case.numbers(rows * cols) };
            let [a_at, b_at, out] = [&a, &b, &old].map(|values| case.add(values));
            let (a_at, b_at, precision) = ((a_at, a_layout), (b_at, b_layout), Precision::F32);
            let args = MatMulArgs { a: a_at, b: b_at, out, rows, inner, cols, alpha, beta, precision };
            case.run(MAX, |backend| backend.matmul(&args));
            let what = format!("a product of {rows} x {inner} x {cols}, {a_layout:?} and {b_layout:?}");
            case.near_floats(out, &matmul(&args, &wide(&a), &wide(&b), &wide(&old)), &what);
        }
    }
    let mut case = Case::new(open, 99);
    let x = case.numbers(6 * 9);
    let (at, out) = (case.add(&x), case.room(36));
    let (rows, inner, cols, precision) = (6, 9, 6, Precision::F32);
    let (a, b, alpha, beta) = ((at, Plain), (at, Transposed), 1.0, 0.0);
    let args = MatMulArgs { a, b, out, rows, inner, cols, alpha, beta, precision };
    case.run(MAX, |backend| backend.matmul(&args));
    case.near_floats(out, &matmul(&args, &wide(&x), &wide(&x), &[]), "a matrix and itself transposed");
}
