//! The subspace of a gradient's largest singular values, by randomized subspace iteration (Halko, Martinsson and Tropp,
//! arXiv 0909.4061): a few more random directions than are wanted are multiplied by the gradient and its transpose and made
//! orthonormal, several times; singular vectors are then those of a small matrix. All large products are the backend's,
//! so that nothing depends on the number of threads; what is left for the host are matrices of the rank's size ([`Dense`]).

use super::dense::Dense;
use super::{Parts, Projected, multiply};
use crate::backend::{Axis, Backend, Layout, Param, Precision, StateTensor};
use crate::memory::Span;
use crate::quant::RngKey;

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
    p.side().min(most_directions(p.rank))
}

/// As many as there are for a rank in the largest of matrices: the rows of the largest that the host decomposes.
pub fn most_directions(rank: usize) -> usize {
    rank + OVERSAMPLE
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
pub fn find(
    backend: &mut dyn Backend,
    dense: &mut Dense,
    refresh: &Refresh,
    grad: Span,
    workspace: Span,
) -> Option<Span> {
    let Refresh { p, param, state, key } = *refresh;
    let (wide, l) = (Projected { rank: directions(&p), ..p }, directions(&p));
    let [mut q, mut other, z, small, turn] = Parts::split(workspace, parts(&p));
    let norms = small.head(4 * p.rank * p.rank);
    backend.gaussian(q, &key, 1.0);
    let mut seen = orthonormalize(backend, dense, [&mut q, &mut other], [small, turn], [l, p.side()]);
    for _ in 0..ITERATIONS {
        wide.project(backend, q, grad, z);
        backend.unit_norm(z, TINY, Precision::F32);
        wide.gather(backend, z, grad, other);
        backend.unit_norm(other, TINY, Precision::F32);
        std::mem::swap(&mut q, &mut other);
        seen = seen && orthonormalize(backend, dense, [&mut q, &mut other], [small, turn], [l, p.side()]);
        if !seen {
            break;
        }
    }
    if seen {
        wide.project(backend, q, grad, z);
        backend.unit_norm(z, TINY, Precision::F32);
        square(backend, z, small, [l, p.long()]);
        seen = dense.largest(backend, small, [p.rank, l], turn.head(4 * p.rank * l));
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
        if dense.is_something(backend, norms, p.rank) {
            return None;
        }
        backend.gaussian(q, &key, 1.0);
        orthonormalize(backend, dense, [&mut q, &mut other], [small, turn], [l, p.side()]);
        return Some(q.head(4 * count));
    }
    let found = other.head(4 * count);
    rotate(backend, turn.head(4 * p.rank * l), q, found, [p.rank, l, p.side()]);
    let old = former(backend, q);
    multiply(backend, (found, Layout::Plain), (old, Layout::Transposed), norms, [p.rank, p.side(), p.rank], [1.0, 0.0]);
    let signs = turn.head(4 * p.rank);
    dense.signs(backend, norms, p.rank, signs);
    backend.scale_axis(found, p.rank, p.side(), Axis::Rows, signs);
    Some(found)
}

/// Whether a stored projection is anything but zeros, with the same workspace.
pub fn is_something(
    backend: &mut dyn Backend,
    dense: &mut Dense,
    p: &Projected,
    param: &Param,
    state: &StateTensor,
    workspace: Span,
) -> bool {
    let [_, room, _, small, _] = Parts::split(workspace, parts(p));
    let (room, products) = (room.head(4 * p.rank * p.side()), small.head(4 * p.rank * p.rank));
    backend.load_state(param, state, room);
    square(backend, room, products, [p.rank, p.side()]);
    dense.is_something(backend, products, p.rank)
}

/// Makes the rows of `q [l, side]` orthonormal, in `other`, with which it is swapped: twice, since the first time leaves
/// rounding errors that grow with the ratio of the rows' lengths. Tells whether there was anything to make them of.
fn orthonormalize(
    backend: &mut dyn Backend,
    dense: &mut Dense,
    [q, other]: [&mut Span; 2],
    [small, turn]: [Span; 2],
    [l, side]: [usize; 2],
) -> bool {
    for _ in 0..2 {
        square(backend, *q, small, [l, side]);
        if !dense.inverse_root(backend, small, l, turn) {
            return false;
        }
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
