//! The subspace of a gradient's largest singular values, by randomized subspace iteration (Halko, Martinsson and Tropp,
//! arXiv 0909.4061): a few more random directions than are wanted are multiplied by the gradient and its transpose and made
//! orthonormal, several times; singular vectors are then those of a small matrix. All large products are the backend's,
//! so that nothing depends on the number of threads; what is left for the host are matrices of the rank's size.

use super::{Parts, Projected, multiply};
use crate::backend::{Backend, Layout, Param, Precision, StateTensor};
use crate::memory::Span;
use crate::quant::RngKey;
use nalgebra::{Cholesky, DMatrix, SymmetricEigen};
use zerocopy::IntoBytes;

/// Directions beyond the rank.
const OVERSAMPLE: usize = 16;
/// Products with the gradient and its transpose: an error shrinks in each by the squared ratio of the first singular
/// value that is left out of all directions to the last one that is wanted.
const ITERATIONS: usize = 4;
/// Added to norms that are divided by; far below any that counts.
const TINY: f32 = 1e-30;

/// What is to be found.
pub struct Refresh<'a> {
    /// How the matrix is projected.
    pub p: Projected,
    /// Whose gradient it is.
    pub param: &'a Param,
    /// The former projection.
    pub state: &'a StateTensor,
    /// Of the random directions.
    pub key: RngKey,
}

/// Directions at work.
fn directions(p: &Projected) -> usize {
    p.side().min(p.rank + OVERSAMPLE)
}

/// Parts of the workspace: two sets of directions, their products with the gradient, two small matrices.
fn parts(p: &Projected) -> [usize; 5] {
    let l = directions(p);
    [l * p.side(), l * p.side(), l * p.long(), l * l, l * l]
}

/// Float32 numbers that a search takes.
pub fn workspace(p: &Projected) -> usize {
    Parts::total(parts(p))
}

/// Orthonormal directions of the largest singular values, `[rank, side]`, largest first, each with the sign that it
/// agrees with its predecessor by, somewhere in `workspace`. Nothing if the former ones shall stay, because the gradient
/// is zero or not finite; random ones if there are none so far.
pub fn find(backend: &mut dyn Backend, refresh: &Refresh, grad: Span, workspace: Span) -> Option<Span> {
    let Refresh { p, param, state, key } = *refresh;
    let (wide, l) = (Projected { rank: directions(&p), ..p }, directions(&p));
    let [mut q, mut other, z, small, turn] = Parts::split(workspace, parts(&p));
    let norms = small.head(4 * p.rank * p.rank);
    backend.gaussian(q, &key, 1.0);
    let mut seen = orthonormalize(backend, &mut q, &mut other, [small, turn], [l, p.side()]);
    for _ in 0..ITERATIONS {
        wide.project(backend, q, grad, z);
        backend.unit_norm(z, TINY, Precision::F32);
        wide.gather(backend, z, grad, other);
        backend.unit_norm(other, TINY, Precision::F32);
        std::mem::swap(&mut q, &mut other);
        seen = seen && orthonormalize(backend, &mut q, &mut other, [small, turn], [l, p.side()]);
        if !seen {
            break;
        }
    }
    // The former projection, beside which new signs are chosen; it is what stays if there is nothing to see.
    let count = p.rank * p.side();
    let former = |backend: &mut dyn Backend, room: Span| {
        let room = room.head(4 * count);
        backend.load_state(param, state, room);
        room
    };
    if !seen {
        let old = former(backend, other);
        square(backend, old, norms, [p.rank, p.side()]);
        if download(backend, norms, p.rank).trace() > 0.0 {
            return None;
        }
        backend.gaussian(q, &key, 1.0);
        orthonormalize(backend, &mut q, &mut other, [small, turn], [l, p.side()]);
        return Some(q.head(4 * count));
    }
    wide.project(backend, q, grad, z);
    backend.unit_norm(z, TINY, Precision::F32);
    square(backend, z, small, [l, p.long()]);
    let vectors = largest(download(backend, small, l), p.rank);
    upload(backend, &vectors, turn.head(4 * p.rank * l));
    let found = other.head(4 * count);
    rotate(backend, turn.head(4 * p.rank * l), q, found, [p.rank, l, p.side()]);
    let old = former(backend, q);
    multiply(backend, (found, Layout::Plain), (old, Layout::Transposed), norms, [p.rank, p.side(), p.rank], [1.0, 0.0]);
    let agreement = download(backend, norms, p.rank);
    let signs: Vec<f32> = agreement.diagonal().iter().map(|&x| if x < 0.0 { -1.0 } else { 1.0 }).collect();
    let at = turn.head(4 * p.rank);
    backend.upload(signs.as_bytes(), at);
    backend.scale_axis(found, p.rank, p.side(), crate::backend::Axis::Rows, at);
    Some(found)
}

/// Makes the rows of `q [l, side]` orthonormal, in `other`, with which it is swapped: twice, since the first time leaves
/// rounding errors that grow with the ratio of the rows' lengths. Tells whether there was anything to make them of.
fn orthonormalize(
    backend: &mut dyn Backend,
    q: &mut Span,
    other: &mut Span,
    [small, turn]: [Span; 2],
    [l, side]: [usize; 2],
) -> bool {
    for _ in 0..2 {
        square(backend, *q, small, [l, side]);
        let Some(inverse) = inverse_root(download(backend, small, l)) else { return false };
        upload(backend, &inverse, turn);
        rotate(backend, turn, *q, *other, [l, l, side]);
        std::mem::swap(q, other);
    }
    true
}

/// `out = x x^T`, `[rows, rows]`.
fn square(backend: &mut dyn Backend, x: Span, out: Span, [rows, cols]: [usize; 2]) {
    multiply(backend, (x, Layout::Plain), (x, Layout::Transposed), out, [rows, cols, rows], [1.0, 0.0]);
}

/// `out = turn x`.
fn rotate(backend: &mut dyn Backend, turn: Span, x: Span, out: Span, shape: [usize; 3]) {
    multiply(backend, (turn, Layout::Plain), (x, Layout::Plain), out, shape, [1.0, 0.0]);
}

/// A small symmetric matrix.
fn download(backend: &dyn Backend, from: Span, n: usize) -> DMatrix<f64> {
    let mut numbers = vec![0f32; n * n];
    backend.download(from, numbers.as_mut_bytes());
    DMatrix::from_fn(n, n, |i, j| f64::from(numbers[i.max(j) * n + i.min(j)]))
}

/// A small matrix, row by row.
fn upload(backend: &mut dyn Backend, matrix: &DMatrix<f64>, to: Span) {
    let numbers: Vec<f32> = matrix.transpose().iter().map(|&x| x as f32).collect();
    backend.upload(numbers.as_bytes(), to);
}

/// The inverse of the lower triangular root of a matrix of scalar products: what makes vectors orthonormal. Where some
/// nearly depend on the others a little is added to the diagonal, and those become shorter than one. Nothing if the
/// vectors are zero or not finite.
fn inverse_root(mut products: DMatrix<f64>) -> Option<DMatrix<f64>> {
    let trace = products.trace();
    if !(trace > 0.0 && products.iter().all(|x| x.is_finite())) {
        return None;
    }
    let mut shift = 1e-7 * trace;
    loop {
        if let Some(inverse) = inverse_of_root(&products) {
            return Some(inverse);
        }
        (0..products.nrows()).for_each(|i| products[(i, i)] += shift);
        shift *= 100.0;
    }
}

/// The inverse of the lower triangular root of a symmetric matrix, by halves, so that nearly all of the work is products of
/// matrices. Nothing unless it is positive definite.
fn inverse_of_root(matrix: &DMatrix<f64>) -> Option<DMatrix<f64>> {
    let n = matrix.nrows();
    if n <= 64 {
        return Cholesky::new(matrix.clone())?.l().solve_lower_triangular(&DMatrix::identity(n, n));
    }
    let (half, rest) = (n / 2, n - n / 2);
    let first = inverse_of_root(&matrix.view((0, 0), (half, half)).into_owned())?;
    let below = matrix.view((half, 0), (rest, half)) * first.transpose();
    let corner = matrix.view((half, half), (rest, rest)) - &below * below.transpose();
    let second = inverse_of_root(&corner)?;
    let mut inverse = DMatrix::zeros(n, n);
    inverse.view_mut((half, 0), (rest, half)).copy_from(&-(&second * below * &first));
    inverse.view_mut((0, 0), (half, half)).copy_from(&first);
    inverse.view_mut((half, half), (rest, rest)).copy_from(&second);
    Some(inverse)
}

/// The eigenvectors of the `count` largest eigenvalues as rows, largest first.
fn largest(matrix: DMatrix<f64>, count: usize) -> DMatrix<f64> {
    let eigen = SymmetricEigen::new(matrix);
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|&i, &j| eigen.eigenvalues[j].total_cmp(&eigen.eigenvalues[i]));
    DMatrix::from_fn(count, order.len(), |i, j| eigen.eigenvectors[(j, order[i])])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes on both sides of the one that is halved.
    #[test]
    fn the_inverse_of_a_root_makes_the_matrix_the_identity() {
        for n in [1, 5, 64, 65, 150] {
            let a = DMatrix::from_fn(n, n + 9, |i, j| ((i * 7 + j * 13) as f64 * 0.61).sin());
            let matrix = &a * a.transpose() + DMatrix::identity(n, n);
            let inverse = inverse_of_root(&matrix).expect("positive definite");
            let product = &inverse * &matrix * inverse.transpose();
            assert!((product - DMatrix::<f64>::identity(n, n)).abs().max() < 1e-10, "{n}");
            assert!((0..n).all(|i| (i + 1..n).all(|j| inverse[(i, j)] == 0.0)), "{n}: lower triangular");
            let indefinite = DMatrix::from_fn(n, n, |i, j| if i != j { 0.0 } else { n as f64 - 1.5 - i as f64 });
            assert!(inverse_of_root(&indefinite).is_none(), "{n}");
        }
    }

    #[test]
    fn directions_that_depend_on_others_become_short_ones() {
        let same = DMatrix::from_element(3, 3, 2.0);
        let inverse = inverse_root(same.clone()).expect("something to see");
        let product = &inverse * same * inverse.transpose();
        assert!((product[(0, 0)] - 1.0).abs() < 1e-6 && product.iter().all(|x| x.abs() < 1.0 + 1e-6), "{product}");
        assert!(inverse_root(DMatrix::zeros(3, 3)).is_none());
        assert!(inverse_root(DMatrix::from_element(3, 3, f64::NAN)).is_none());
    }
}
