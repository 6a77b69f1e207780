//! The operations, one file each, over slices.

pub(crate) mod activation_pack;
pub(crate) mod activation_quant;
mod activation_scaling;
pub(crate) mod adam;
mod apply_update;
pub(crate) mod attention;
pub(crate) mod attention_grad;
pub(crate) mod bias;
pub(crate) mod embedding;
mod factored;
pub(crate) mod factors;
mod gaussian;
mod gelu;
pub(crate) mod linear;
pub(crate) mod linear_grad_weight;
pub(crate) mod loss;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod normalize;
pub(crate) mod param_rows;
mod prefix;
pub(crate) mod rope;
mod scaling;
mod state_rows;
pub(crate) mod swiglu;
pub(crate) mod update;
pub(crate) mod weights;
