//! What an operation has to do at least, from its operands: arithmetic of products, and bytes that are read or written.

use crate::backend::{Accumulate, AttentionShape, MatMulArgs, Param, PrefixArgs, StateTensor, Weight};
use crate::memory::Span;
use std::iter::Sum;
use std::ops::Add;

/// What an operation has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiplications and additions of its products; 0 of an operation without any.
    pub flops: u64,
    /// Bytes of its operands, once for reading and once for writing.
    pub bytes: u64,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Add::add)
    }
}

impl Cost {
    /// Operands that are read or written once.
    pub(super) fn of<const N: usize>(spans: [Span; N]) -> Self {
        Self { flops: 0, bytes: spans.iter().map(|span| span.bytes as u64).sum() }
    }

    /// One that is read and written.
    pub(super) fn changed(span: Span) -> Self {
        Self::of([span, span])
    }

    /// One that is written, or added to.
    pub(super) fn into(span: Span, accumulate: Accumulate) -> Self {
        if accumulate == Accumulate::Yes { Self::changed(span) } else { Self::of([span]) }
    }

    /// The same and the arithmetic of products.
    pub(super) fn with_flops(self, flops: usize) -> Self {
        Self { flops: flops as u64, ..self }
    }

    /// The planes of a weight that products read.
    pub(super) fn read(w: &Weight) -> Self {
        Self::of([w.data, w.scales, w.offsets])
    }

    /// A state tensor that is read, or written.
    pub(super) fn state(tensor: &StateTensor) -> Self {
        Self::of([tensor.data, tensor.scales])
    }

    /// All planes of a weight, read and written.
    pub(super) fn updated(w: &Weight) -> Self {
        let [data, scales, offsets, residue] = w.planes();
        let once = Self::of([data, scales, offsets, residue]);
        once + once
    }

    /// The same of a parameter with its state.
    pub(super) fn updated_with_state(param: &Param) -> Self {
        let state = param.state.planes().fold(Self::default(), |sum, span| sum + Self::changed(span));
        Self::updated(&param.weight) + state
    }

    /// A product that takes `rows` by `cols` multiplications for each of `t` tokens.
    pub(super) fn product(t: usize, rows: usize, cols: usize, bytes: Self) -> Self {
        bytes.with_flops(2 * t * rows * cols)
    }

    /// A product of two matrices.
    pub(super) fn matmul(args: &MatMulArgs) -> Self {
        let c = if args.beta == 0.0 { Self::of([args.out]) } else { Self::changed(args.out) };
        Self::product(args.rows, args.inner, args.cols, c + Self::of([args.a.0, args.b.0]))
    }

    /// `products` products for each query and key that see each other, as if each row were one sample.
    pub(super) fn attention(shape: &AttentionShape, products: usize, bytes: Self) -> Self {
        let queries = shape.queries;
        let pairs = shape.batch * shape.heads * (queries * shape.start + queries * (queries + 1) / 2);
        bytes.with_flops(2 * products * pairs * shape.head_dim)
    }

    /// The same of the keys of a prefix, all of which every query sees.
    pub(super) fn prefix(args: &PrefixArgs, products: usize, bytes: Self) -> Self {
        let AttentionShape { batch, queries, heads, head_dim, .. } = args.shape;
        let pairs = batch * queries * heads * args.length();
        (bytes + Self::of([args.q, args.key, args.value])).with_flops(2 * products * pairs * head_dim)
    }
}
