//! The contracts of the operations, one file each, with what they compute written to be read. `cpu/ops` and `cuda/ops`
//! implement them in files of the same names.

mod activation_pack;
mod activation_quant;
mod activation_scaling;
mod attention;
mod bias;
mod compute;
pub mod conformance;
mod embedding;
mod factors;
mod gaussian;
mod gelu;
mod linear;
mod linear_grad_int8;
mod loss;
mod magnitude;
mod matmul;
mod norm;
mod prefix;
pub mod reference;
mod rope;
mod scaling;
mod state_conformance;
mod swiglu;
mod update;
mod update_conformance;

pub use activation_pack::{ActivationPack, PACK_GROUP, packed_bytes};
pub use activation_quant::{ActivationCode, ActivationQuant, QUANT_GROUP};
pub use activation_scaling::{ActivationScaling, DropoutArgs};
pub use attention::{Attention, AttentionArgs, AttentionGradArgs, AttentionShape};
pub use bias::Bias;
pub use compute::{Compute, SUM_BLOCK};
pub use embedding::Embedding;
pub use factors::Factors;
pub use gaussian::Gaussian;
pub use gelu::{Gelu, gelu, gelu_slope};
pub use linear::Linear;
pub use linear_grad_int8::{FIRST_ADDED, GRAD_GROUP, RowDraws};
pub use loss::{CrossEntropy, IGNORE};
pub use magnitude::Magnitude;
pub use matmul::{Layout, MatMul, MatMulArgs};
pub use norm::{Norm, NormGradArgs};
pub use prefix::{MOST_PREFIX, PrefixArgs, PrefixAttention, PrefixGradArgs, PrefixReference};
pub use rope::{Rope, Rotation};
pub use scaling::{Precision, Scaling};
pub use swiglu::SwiGlu;
pub use update::Update;

/// Whether a result is added to what its output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// The output is overwritten; its former content is not read.
    No,
    /// The result is added to the output.
    Yes,
}
