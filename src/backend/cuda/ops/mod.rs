//! The operations, one file each: checks of the operands, and launches of the kernels of the same name.

pub(crate) mod activation_pack;
pub(crate) mod activation_quant;
pub mod adam;
pub mod attention;
pub mod attention_grad;
pub(crate) mod bias;
pub(crate) mod embedding;
mod factored;
pub(crate) mod linear;
pub(crate) mod linear_grad_weight;
pub(crate) mod loss;
pub(crate) mod norm;
pub(crate) mod normalize;
pub(crate) mod rope;
pub(crate) mod swiglu;
pub(crate) mod update;
pub(crate) mod weights;

/// Rows start at multiples of sixteen bytes: tensor cores are fed, and rows are read, sixteen bytes at a time.
pub(crate) const ROW_MULTIPLE: usize = 8;

/// Elements from one row of activations to the next.
pub(crate) fn pitch(features: usize) -> usize {
    features.next_multiple_of(ROW_MULTIPLE)
}
