//! Matrix products by cuBLASLt.

use crate::backend::Store;

/// Which operands of a row-major product `out[m, n] = a b` lie transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `a[m, k]` and `b[n, k]`: `y[T, O] = x[T, I] w[O, I]^T`.
    Nt,
    /// `a[m, k]` and `b[k, n]`: `dx[T, I] = dy[T, O] w[O, I]`.
    Nn,
    /// `a[k, m]` and `b[k, n]`: `dw[O, I] = dy[T, O]^T x[T, I]`.
    Tn,
}

/// A row-major matrix in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Device address of its first element.
    pub address: u64,
    /// Elements from one row to the next.
    pub pitch: usize,
}

/// What a product writes; its operands are bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// bfloat16, rounded once from the float32 sum.
    Bf16,
    /// float32
    F32,
}

/// One product of bf16 matrices, summed in float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// How the operands lie.
    pub form: Form,
    /// Rows of the output.
    pub m: usize,
    /// Columns of the output.
    pub n: usize,
    /// Terms of a sum.
    pub k: usize,
    /// The left operand.
    pub a: Matrix,
    /// The right operand.
    pub b: Matrix,
    /// The output.
    pub out: Matrix,
    /// The output's type.
    pub output: Output,
    /// Whether the output is replaced or added to.
    pub store: Store,
}
