//! What a search for a subspace leaves to the host: matrices of the rank's size, decomposed in float64 by one thread, so
//! that any number of threads gives the same bits. Its memory is allocated once, for the largest.

use crate::backend::Backend;
use crate::memory::Span;
use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{MatMut, MatRef, Par};
use std::fmt;
use zerocopy::IntoBytes;

/// Room for matrices of up to `n` rows.
pub(super) struct Dense {
    /// A matrix as backends have it, row by row.
    floats: Vec<f32>,
    /// The matrix that was read, and two of what is made of it; columns one after the other.
    given: Vec<f64>,
    made: [Vec<f64>; 2],
    stack: MemBuffer,
}

impl fmt::Debug for Dense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "room for {} numbers of a matrix", self.floats.len())
    }
}

/// What the decompositions of matrices of `n` rows take beside the matrices.
fn scratch(n: usize) -> StackReq {
    let root = cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default());
    let eigen = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    root.or(eigen)
}

impl Dense {
    /// Bytes of the room.
    pub fn bytes(n: usize) -> usize {
        n * n * (size_of::<f32>() + 3 * size_of::<f64>()) + scratch(n).unaligned_bytes_required()
    }

    pub fn new(n: usize) -> Self {
        let numbers = || vec![0.0; n * n];
        Self {
            floats: vec![0.0; n * n],
            given: numbers(),
            made: [numbers(), numbers()],
            stack: MemBuffer::new(scratch(n)),
        }
    }

    /// Whether a matrix of scalar products has anything but zeros, and nothing that is not finite.
    pub fn is_something(&mut self, backend: &dyn Backend, products: Span, n: usize) -> bool {
        self.read(backend, products, n);
        self.take(n).is_some()
    }

    /// Reads a matrix into `floats`.
    fn read(&mut self, backend: &dyn Backend, from: Span, n: usize) {
        backend.download(from, self.floats[..n * n].as_mut_bytes());
    }

    /// The matrix in `floats` as one to compute with; its trace, if it is something.
    fn take(&mut self, n: usize) -> Option<f64> {
        let floats = &self.floats[..n * n];
        // Rows for columns: the matrix is symmetric, and of what is read one triangle counts.
        self.given.iter_mut().zip(floats).for_each(|(given, x)| *given = f64::from(*x));
        let trace: f64 = (0..n).map(|i| self.given[i * n + i]).sum();
        (trace > 0.0 && self.given[..n * n].iter().all(|x| x.is_finite())).then_some(trace)
    }

    /// Puts `rows` rows of `n` numbers into `floats`.
    fn give(&mut self, [rows, n]: [usize; 2], at: impl Fn(&[Vec<f64>; 2], usize, usize) -> f64) {
        for (i, row) in self.floats[..rows * n].chunks_exact_mut(n).enumerate() {
            row.iter_mut().enumerate().for_each(|(j, x)| *x = at(&self.made, i, j) as f32);
        }
    }

    /// `out`, `[n, n]`: the inverse of the lower triangular root of a matrix of scalar products, which makes vectors
    /// orthonormal. Where some nearly depend on the others a little is added to the diagonal, and those become shorter than
    /// one. False if the vectors are zero or not finite.
    pub fn inverse_root(&mut self, backend: &mut dyn Backend, products: Span, n: usize, out: Span) -> bool {
        self.read(backend, products, n);
        let found = self.invert_root(n);
        if found {
            backend.upload(self.floats[..n * n].as_bytes(), out);
        }
        found
    }

    /// The same of the matrix in `floats`, in its place.
    fn invert_root(&mut self, n: usize) -> bool {
        let Some(trace) = self.take(n) else { return false };
        let mut shift = 1e-7 * trace;
        while !self.root(n) {
            (0..n).for_each(|i| self.given[i * n + i] += shift);
            shift *= 100.0;
        }
        let [root, inverse] = &mut self.made;
        inverse[..n * n].fill(0.0);
        let root = MatRef::from_column_major_slice(&root[..n * n], n, n);
        invert_lower_triangular(MatMut::from_column_major_slice_mut(&mut inverse[..n * n], n, n), root, Par::Seq);
        self.give([n, n], |[_, inverse], i, j| inverse[j * n + i]);
        true
    }

    /// The lower triangular root of what was read, if it is positive definite.
    fn root(&mut self, n: usize) -> bool {
        let root = &mut self.made[0][..n * n];
        root.copy_from_slice(&self.given[..n * n]);
        let (root, stack) = (MatMut::from_column_major_slice_mut(root, n, n), MemStack::new(&mut self.stack));
        let none = LltRegularization::default();
        cholesky_in_place(root, none, Par::Seq, stack, Default::default()).is_ok()
    }

    /// `out`, `[count, n]`: the eigenvectors of the `count` largest eigenvalues of a symmetric matrix as rows, largest
    /// first. False if the matrix is zero or not finite.
    pub fn largest(&mut self, backend: &mut dyn Backend, products: Span, [count, n]: [usize; 2], out: Span) -> bool {
        self.read(backend, products, n);
        let found = self.eigenvectors(count, n);
        if found {
            backend.upload(self.floats[..count * n].as_bytes(), out);
        }
        found
    }

    /// The same of the matrix in `floats`, in its place.
    fn eigenvectors(&mut self, count: usize, n: usize) -> bool {
        if self.take(n).is_none() {
            return false;
        }
        let [vectors, values] = &mut self.made;
        let vectors = MatMut::from_column_major_slice_mut(&mut vectors[..n * n], n, n);
        let found = self_adjoint_evd(
            MatRef::from_column_major_slice(&self.given[..n * n], n, n),
            DiagMut::from_slice_mut(&mut values[..n]),
            Some(vectors),
            Par::Seq,
            MemStack::new(&mut self.stack),
            Default::default(),
        );
        // Smallest first.
        self.give([count, n], |[vectors, _], i, j| vectors[(n - 1 - i) * n + j]);
        found.is_ok()
    }

    /// `out`, `[n]`: -1 where the diagonal of a matrix is below 0, else 1.
    pub fn signs(&mut self, backend: &mut dyn Backend, matrix: Span, n: usize, out: Span) {
        self.read(backend, matrix, n);
        self.signs_of_diagonal(n);
        backend.upload(self.floats[..n].as_bytes(), out);
    }

    /// The same of the matrix in `floats`, in its place.
    fn signs_of_diagonal(&mut self, n: usize) {
        for i in 0..n {
            self.floats[i] = if self.floats[i * n + i] < 0.0 { -1.0 } else { 1.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room for a matrix of `n` rows that holds it.
    fn with(matrix: &[f32], n: usize) -> Dense {
        let mut dense = Dense::new(n);
        dense.floats[..matrix.len()].copy_from_slice(matrix);
        dense
    }

    fn floats(dense: &Dense, count: usize) -> Vec<f64> {
        dense.floats[..count].iter().map(|&x| x.into()).collect()
    }

    /// Scalar products of `n` rows that depend on each other but little, and the identity.
    fn products(n: usize) -> Vec<f32> {
        let x = |i: usize, j: usize| ((i * 7 + j * 13) as f64 * 0.61 + (i * j % 17) as f64).sin();
        let product =
            |i: usize, j: usize| (0..n + 9).map(|k| x(i, k) * x(j, k)).sum::<f64>() + f64::from(u8::from(i == j));
        (0..n * n).map(|at| product(at / n, at % n) as f32).collect()
    }

    /// One room for matrices of any size up to its own.
    #[test]
    fn the_inverse_of_a_root_makes_the_matrix_the_identity() {
        let mut dense = Dense::new(150);
        for n in [1, 5, 64, 65, 150] {
            let matrix = products(n);
            dense.floats[..n * n].copy_from_slice(&matrix);
            assert!(dense.invert_root(n));
            let inverse = floats(&dense, n * n);
            let row = |i: usize| &inverse[i * n..][..n];
            assert!((0..n).all(|i| row(i)[i + 1..].iter().all(|x| *x == 0.0)), "{n}: lower triangular");
            let half: Vec<f64> =
                (0..n * n).map(|at| (0..n).map(|k| row(at / n)[k] * f64::from(matrix[k * n + at % n])).sum()).collect();
            for at in 0..n * n {
                let whole: f64 = half[at / n * n..][..n].iter().zip(row(at % n)).map(|(x, y)| x * y).sum();
                let wanted = f64::from(u8::from(at / n == at % n));
                assert!((whole - wanted).abs() < 1e-4, "{n}: element {at} is {whole}");
            }
        }
    }

    #[test]
    fn directions_that_depend_on_others_become_short_ones() {
        let mut dense = with(&[2.0; 9], 3);
        assert!(dense.invert_root(3));
        let inverse = floats(&dense, 9);
        for (i, x) in inverse.chunks(3).enumerate() {
            let squared = 2.0 * x.iter().sum::<f64>().powi(2);
            assert!(squared < 1.0 + 1e-6 && (i > 0 || squared > 1.0 - 1e-6), "row {i} has a length of {squared}");
        }
        for nothing in [[0.0; 9], [f32::NAN; 9]] {
            assert!(!with(&nothing, 3).invert_root(3) && !with(&nothing, 3).eigenvectors(1, 3));
        }
    }

    #[test]
    fn eigenvectors_are_those_of_the_largest_values_in_order() {
        let mut dense = Dense::new(40);
        for n in [1, 2, 17, 40] {
            let (matrix, count) = (products(n), n.div_ceil(2));
            dense.floats[..n * n].copy_from_slice(&matrix);
            assert!(dense.eigenvectors(count, n));
            let vectors = floats(&dense, count * n);
            let mut before = f64::INFINITY;
            for v in vectors.chunks(n) {
                let image: Vec<f64> =
                    matrix.chunks(n).map(|row| row.iter().zip(v).map(|(m, v)| f64::from(*m) * v).sum()).collect();
                let value: f64 = image.iter().zip(v).map(|(x, y)| x * y).sum();
                assert!(value <= before + 1e-6, "{n}: {value} after {before}");
                assert!(image.iter().zip(v).all(|(x, y)| (x - value * y).abs() < 1e-4 * value), "{n}: of {value}");
                before = value;
            }
            // None that is larger is left out: at right angles to those found, no direction has a larger image.
            let mut rest = vec![1.0; n];
            for _ in 0..200 {
                for v in vectors.chunks(n) {
                    let along: f64 = rest.iter().zip(v).map(|(x, y)| x * y).sum();
                    rest.iter_mut().zip(v).for_each(|(x, y)| *x -= along * y);
                }
                let length = rest.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-300);
                rest.iter_mut().for_each(|x| *x /= length);
                let image: Vec<f64> =
                    matrix.chunks(n).map(|row| row.iter().zip(&rest).map(|(m, x)| f64::from(*m) * x).sum()).collect();
                let value: f64 = image.iter().zip(&rest).map(|(x, y)| x * y).sum();
                assert!(count == n || value <= before * (1.0 + 1e-3), "{n}: {value} was left out, {before} taken");
                rest = image;
            }
        }
    }

    #[test]
    fn signs_are_those_of_the_diagonal() {
        let mut dense = with(&[1.0, -1.0, 2.0, -3.0], 2);
        dense.signs_of_diagonal(2);
        assert_eq!(floats(&dense, 2), [1.0, -1.0]);
    }
}
