//! Error feeding: what a code misses is made up for by the codes to its right, in the measure of what the matrix reads.
//!
//! The rule is that of GPTQ (arXiv 2210.17323, algorithm 1): with H the sum of x xᵀ over the inputs x of a text, and U the
//! upper Cholesky factor of its inverse, the error of element i divided by `U[i][i]` goes to element j times `U[i][j]`.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Mat, Par};

/// Share of the mean of the diagonal that is added to it, so that the inverse exists whatever the text.
const DAMP: f64 = 0.01;

/// How errors are passed on along the columns of a matrix.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    cols: usize,
    /// The sum of x xᵀ, `[cols, cols]`.
    products: Vec<f32>,
    /// `U[i][j] / U[i][i]` of the columns from i + 1 on, row after row.
    shares: Vec<f32>,
}

impl Feed {
    /// From the sum of x xᵀ, `[cols, cols]`; none if even the damped sum has no inverse, as one of numbers that are not
    /// finite.
    pub fn new(cols: usize, products: Vec<f32>) -> Option<Self> {
        assert_eq!(products.len(), cols * cols, "a square of {cols} columns");
        let trace: f64 = (0..cols).map(|i| f64::from(products[i * cols + i])).sum();
        let damp = DAMP * trace / cols as f64;
        // Inputs that are always zero pass nothing on.
        let damp = if damp > 0.0 { damp } else { 1.0 };
        // H = L Lᵀ with the columns in reverse; L's inverse, reversed again, is the upper factor of H's inverse.
        let mut lower = Mat::from_fn(cols, cols, |i, j| {
            let product = f64::from(products[(cols - 1 - i) * cols + cols - 1 - j]);
            if i == j { product + damp } else { product }
        });
        let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(cols, Par::Seq, Default::default()));
        let (none, stack) = (LltRegularization::default(), MemStack::new(&mut memory));
        cholesky_in_place(lower.as_mut(), none, Par::Seq, stack, Default::default()).ok()?;
        let mut inverse = Mat::zeros(cols, cols);
        invert_lower_triangular(inverse.as_mut(), lower.as_ref(), Par::Seq);
        let upper = |i: usize, j: usize| inverse[(cols - 1 - i, cols - 1 - j)];
        let mut shares = Vec::with_capacity(cols * (cols.saturating_sub(1)) / 2);
        for i in 0..cols {
            let own = upper(i, i);
            shares.extend((i + 1..cols).map(|j| (upper(i, j) / own) as f32));
        }
        shares.iter().all(|share| share.is_finite()).then_some(Self { cols, products, shares })
    }

    /// The sum of the squares by which a product of the row is off over the text, if its elements are off by `errors`.
    pub fn cost(&self, errors: &[f32]) -> f64 {
        let rows = errors.iter().zip(self.products.chunks_exact(self.cols)).filter(|(error, _)| **error != 0.0);
        rows.map(|(&error, row)| f64::from(error) * f64::from(row.iter().zip(errors).map(|(a, b)| a * b).sum::<f32>()))
            .sum()
    }

    /// After element `i` of a row became `stored`: corrects the elements after it.
    pub fn pass_on(&self, i: usize, values: &mut [f32], stored: f32) {
        let error = values[i] - stored;
        // Rows before this one have cols - 1, cols - 2, ... shares.
        let first = i * (2 * self.cols - i - 1) / 2;
        let shares = &self.shares[first..][..self.cols - i - 1];
        for (value, share) in values[i + 1..].iter_mut().zip(shares) {
            *value -= error * share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With two columns whose inputs are the same, the second takes over the whole error of the first.
    #[test]
    fn equal_inputs_take_over_an_error_whole() {
        let feed = Feed::new(2, vec![4.0; 4]).unwrap();
        let mut row = [1.0, 2.0];
        feed.pass_on(0, &mut row, 0.5);
        // All but the damping: the sum that the inputs see stays as it was.
        assert!((row[1] - 2.5).abs() < 0.01, "{row:?}");
    }

    #[test]
    fn inputs_that_have_nothing_to_do_with_each_other_take_over_nothing() {
        let feed = Feed::new(3, vec![4.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 9.0]).unwrap();
        let mut row = [1.0, 2.0, 3.0];
        (0..3).for_each(|i| feed.pass_on(i, &mut row, 0.0));
        assert_eq!(row, [1.0, 2.0, 3.0]);
    }

    /// Least squares by hand: given the first coefficient, the best second one.
    #[test]
    fn what_is_passed_on_is_the_least_squares_correction() {
        let h = vec![5.0f32, 2.0, 2.0, 3.0];
        let feed = Feed::new(2, h.clone()).unwrap();
        assert_eq!(feed.cost(&[1.0, -2.0]), 5.0 - 8.0 + 12.0);
        let mut row = [1.0, 1.0];
        feed.pass_on(0, &mut row, 0.0);
        let damped = f64::from(h[3]) + 0.01 * 4.0;
        assert!((f64::from(row[1]) - (1.0 + 2.0 / damped)).abs() < 1e-6, "{row:?}");
    }

    #[test]
    fn no_input_at_all_and_inputs_that_are_no_numbers_are_borne() {
        let feed = Feed::new(2, vec![0.0; 4]).unwrap();
        let mut row = [1.0, 2.0];
        feed.pass_on(0, &mut row, 0.0);
        assert_eq!(row, [1.0, 2.0]);
        assert!(Feed::new(2, vec![f32::NAN; 4]).is_none());
    }
}
