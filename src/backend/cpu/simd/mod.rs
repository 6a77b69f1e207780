//! What the operations are built from: instruction sets, sums, the exponential, small products, and tasks for threads.

pub(crate) mod exp;
pub(crate) mod gemm;
pub(crate) mod int8;
pub(crate) mod isa;
pub(crate) mod reduce;
pub(crate) mod tasks;
pub(crate) mod tile;
pub(crate) mod uniform;
