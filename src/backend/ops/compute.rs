//! The arithmetics of products.

use super::GRAD_GROUP;
use crate::quant::WeightCodec;
use serde::{Deserialize, Serialize};

/// Products that [`super::Linear::linear_bf16`] sums before it adds them to what was summed before.
pub const SUM_BLOCK: usize = 32;

/// In which arithmetic products with weights are computed, forward or for a gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compute {
    /// Floats: codes become floats, and activations stay as they are.
    #[default]
    F32,
    /// Floats of sixteen bits: codes and activations become bfloat16, and sums are float32 ([`super::Linear::linear_bf16`]). What a
    /// device whose activations are bfloat16 computes for [`Compute::F32`], too.
    Bf16,
    /// Integers: codes stay as they are, and activations are rounded to eight bits ([`super::Linear::linear_int8`]). Of gradients
    /// both operands are rounded ([`super::Linear::linear_grad_input_int8`]).
    Int8,
    /// Floats of eight bits: four-bit codes are such floats, and activations are rounded to them ([`super::Linear::linear_fp8`]).
    Fp8,
}

impl Compute {
    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Fp8 => "fp8",
        }
    }

    /// Tokens of the blocks that a weight's gradient is a sum of, where blocks begin anew with every sequence.
    pub const fn sum_block(self) -> Option<usize> {
        match self {
            Self::Bf16 => Some(SUM_BLOCK),
            Self::Int8 => Some(GRAD_GROUP),
            Self::F32 | Self::Fp8 => None,
        }
    }

    /// Whether products with weights that are stored so are computed so, and not in floats as they are.
    pub const fn takes(self, codec: WeightCodec) -> bool {
        match self {
            Self::F32 => false,
            Self::Bf16 => true,
            Self::Int8 => codec.integers().is_some(),
            Self::Fp8 => codec.has_e4m3_codes(),
        }
    }
}
