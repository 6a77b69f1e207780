//! What placing and computing a model depends on besides its architecture: activations, memory, the step's shape.

use super::{AdapterUse, ModelConfig, ParamKind, StorageConfig};
use crate::backend::{ActivationCode, Compute};
use crate::error::Problems;
use crate::optim::Groups;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Tokens of the shortest sequence whose batches may be split into micro-batches: products of fewer tokens are computed
/// another way, and the micro-batches would not sum up to the bits of the whole batch.
pub const SHORTEST_MICRO_SEQUENCE: usize = 5;

/// All that decides where a model lies and what it computes, the device and the shape of a batch aside.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The architecture.
    pub model: ModelConfig,
    /// How weights and optimizer state are stored.
    pub storage: StorageConfig,
    /// How activations enter the packed products.
    pub activations: ActivationConfig,
    /// The rules whose state is kept with the weights; `None` where a model is only evaluated.
    pub optimizer: Option<Arc<Groups>>,
    /// Whether updates of an untied embedding leave out the rows without a gradient.
    pub sparse_embedding: bool,
    /// Whether a row may hold several samples, each with attention of its own.
    pub packing: bool,
    /// Which parameters are trained.
    pub trainable: Trainable,
    /// Adapters beside the model; their sum is added.
    pub adapters: Vec<AdapterUse>,
    /// Seed of everything random.
    pub seed: u64,
    /// How memory is traded for time.
    pub execution: Execution,
}

/// Which parameters are trained; a model of which none is has no backward.
#[derive(Clone, Copy, Debug)]
pub enum Trainable {
    /// All: training.
    All,
    /// None: evaluation and sampling.
    Nothing,
    /// Those that this is true of; all others stay as they are.
    Only(fn(ParamKind) -> bool),
}

impl Trainable {
    /// Whether a parameter is trained.
    pub fn contains(self, kind: ParamKind) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Only(chosen) => chosen(kind),
        }
    }
}

/// How training trades memory for time. On a CPU none of it changes what is trained except
/// [`ActivationCheckpointing::BlockInt4`] and `logits_mib`; on a GPU sums change their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Tokens of a micro-batch at most; `usize::MAX`: all of the batch.
    pub micro_tokens: usize,
    /// What forward keeps for backward.
    pub checkpointing: ActivationCheckpointing,
    /// How much of a block's gradient exists at once.
    pub grad_buffer: GradBuffer,
    /// Where parameters live between their uses.
    pub offload: OffloadConfig,
    /// MiB of logits that may exist at once; 0: what keeps the device busy.
    pub logits_mib: usize,
    /// Positions of a text that sampling caches at most, never more than a sequence has; 0: nothing is sampled.
    pub sampled: usize,
    /// Processes that share each batch: with more than one a block's gradients are there until a pass over it ends.
    pub ranks: usize,
    /// Which of them this is; `None`: the one that holds the most, of which a plan tells.
    pub rank: Option<usize>,
}

impl Default for Execution {
    /// Whole batches, and the fastest of everything.
    fn default() -> Self {
        Self {
            micro_tokens: usize::MAX,
            checkpointing: ActivationCheckpointing::Auto,
            grad_buffer: GradBuffer::Auto,
            offload: OffloadConfig::default(),
            logits_mib: 0,
            sampled: usize::MAX,
            ranks: 1,
            rank: None,
        }
    }
}

/// `[activations]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActivationConfig {
    /// Quantization of the inputs of packed products.
    pub quant: ActivationQuant,
    /// Arithmetic of forward products with packed weights. "int8" rounds their inputs to eight bits and multiplies integers,
    /// "fp8" rounds them to floats of eight bits, of which four-bit codes are some; "bf16" rounds both to bfloat16.
    #[serde(skip_serializing_if = "is_default")]
    pub compute: Compute,
    /// Arithmetic of the gradients of these products' inputs.
    #[serde(skip_serializing_if = "is_default")]
    pub compute_grad_input: GradCompute,
    /// Arithmetic of the gradients of weights.
    #[serde(skip_serializing_if = "is_default")]
    pub compute_grad_weight: GradCompute,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// In which arithmetic a gradient is formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradCompute {
    /// As forward products, if these are in floats that are not rounded to eight bits.
    #[default]
    Forward,
    /// Floats as they are.
    F32,
    /// Both operands rounded to bfloat16.
    Bf16,
    /// Both operands rounded to integers of eight bits, the gradient at random, of weights that are codes.
    Int8,
}

impl GradCompute {
    /// What a backend is asked for beside forward products in `forward`.
    const fn beside(self, forward: Compute) -> Compute {
        match (self, forward) {
            (Self::Bf16, _) | (Self::Forward, Compute::Bf16) => Compute::Bf16,
            (Self::Int8, _) => Compute::Int8,
            _ => Compute::F32,
        }
    }
}

impl ActivationConfig {
    /// What the gradients of inputs are formed in.
    pub const fn grad_input(&self) -> Compute {
        self.compute_grad_input.beside(self.compute)
    }

    /// What the gradients of weights are formed in.
    pub const fn grad_weight(&self) -> Compute {
        self.compute_grad_weight.beside(self.compute)
    }

    /// Every mistake beside weights that are stored so.
    pub fn problems(&self, storage: &StorageConfig) -> Problems {
        let mut problems = Problems::default();
        problems.need(
            matches!(self.compute, Compute::F32 | Compute::Bf16) || self.quant == ActivationQuant::None,
            "activations.compute",
            format_args!("\"{}\"", self.compute.name()),
            "rounds inputs to eight bits, which activations.quant has rounded before; set one of them to its default",
        );
        problems.need(
            self.compute == Compute::F32 || storage.has_products_in(self.compute),
            "activations.compute",
            format_args!("\"{}\"", self.compute.name()),
            match self.compute {
                Compute::Fp8 => {
                    "multiplies codes of four bits; set it to \"f32\", or to \"int8\" beside other codes, \
                     or storage.weights=\"int4\""
                }
                _ => "multiplies weights that are codes; set it to \"f32\" or storage.weights=\"int4\"",
            },
        );
        let of_gradients = [
            ("activations.compute_grad_input", self.compute_grad_input),
            ("activations.compute_grad_weight", self.compute_grad_weight),
        ];
        for (key, chosen) in of_gradients {
            problems.need(
                chosen != GradCompute::Int8 || storage.has_products_in(Compute::Int8),
                key,
                "\"int8\"",
                "multiplies weights that are codes; set it to \"f32\" or storage.weights=\"int4\"",
            );
        }
        problems.need(
            self.quant == ActivationQuant::None || storage.has_four_bit_products(),
            "activations.quant",
            format_args!("\"{}\"", self.quant.name()),
            "quantizes the inputs of four-bit products; set it to \"none\" or storage.weights=\"int4\"",
        );
        problems
    }
}

/// Quantization of the inputs of packed products, in groups of 256 whose two largest are kept exactly; gradients pass as if
/// there were none. See [`ActivationCode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationQuant {
    /// As they are.
    #[default]
    None,
    /// INT4 as in the code of arXiv 2502.17055: groups run on through the rows of a sequence.
    Int4,
    /// INT4 in groups that begin anew in each row, with a scale that has no least value.
    Int4Rows,
    /// FP4 E1M2 as in the code of arXiv 2502.17055.
    Fp4,
}

impl ActivationQuant {
    /// What a backend is asked for.
    pub fn code(self) -> Option<ActivationCode> {
        match self {
            Self::None => None,
            Self::Int4 => Some(ActivationCode::Int4),
            Self::Int4Rows => Some(ActivationCode::Int4Rows),
            Self::Fp4 => Some(ActivationCode::Fp4),
        }
    }

    /// Its word in a configuration.
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Int4 => "int4",
            Self::Int4Rows => "int4-rows",
            Self::Fp4 => "fp4",
        }
    }
}

/// `[offload]`: where parameters live between their uses. Results do not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OffloadConfig {
    /// The blocks' weights; on a CPU embedding and head too.
    pub weights: Offload,
    /// Residue and optimizer state.
    pub optimizer: Offload,
}

impl OffloadConfig {
    /// Whether anything lives in a scratch file.
    pub fn uses_file(&self) -> bool {
        [self.weights, self.optimizer].contains(&Offload::File)
    }
}

/// Where parameters live between their uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// The first of the others that fits into memory.
    #[default]
    Auto,
    /// In the memory of the device that computes.
    Device,
    /// In this machine's memory; a device with memory of its own prefetches each block one ahead of its use.
    Host,
    /// In a scratch file below `run.dir`, read ahead and written behind. If weights or state are here, whatever else
    /// leaves a GPU is here too.
    File,
}

/// What exists of a block's gradient at once, if it is summed over several micro-batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradBuffer {
    /// `block` if that fits into memory, else `tensor`.
    #[default]
    Auto,
    /// All of it: one pass over the micro-batches.
    Block,
    /// No more than its largest matrix: a pass for each group of matrices that is as small, all from a copy of the
    /// block's weights, which is small only if they are packed. About two and a half times the work of backward.
    Tensor,
}

/// Activation checkpointing: what forward keeps for backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationCheckpointing {
    /// `none` if that fits into memory, else `block`.
    #[default]
    Auto,
    /// No checkpointing: every activation is kept.
    None,
    /// Each block's input is kept; the rest of a block is recomputed when its backward begins.
    Block,
    /// Each block's input is kept in four bits, stochastically rounded; what is recomputed then differs slightly from
    /// what was computed first.
    BlockInt4,
}
