//! Update rules: what is kept of a parameter between steps, and how a step is made of the backend's operations.
//!
//! A rule is an [`Optimizer`]: it declares the state that a parameter needs (name, element type, rows and columns) and
//! the workspace of its step. The plan, first values, checkpoints and `dump` read the declaration and know no rule.
//! Parameters are in [`Groups`], each with its rule.

mod adafactor;
mod adam;
mod adam_mini;
mod config;
mod groups;
mod lion;
mod low_rank;
mod muon;
mod problems;
mod rules;
mod scale;
mod schedule;
mod sgd;
mod workspace;

pub use adafactor::Adafactor;
pub use adam::{AdamFamily, AdamStepInfo};
pub use adam_mini::AdamMini;
pub use config::{EmbeddingUpdate, OptimizerConfig, StateConfig};
pub use groups::Groups;
pub use lion::Lion;
pub use low_rank::{Apollo, Companion, GaLore, LowRank, Norms, Residual};
pub use muon::{AdjustLr, Muon, newton_schulz, newton_schulz_workspace};
pub use rules::{OptimizerContext, Rule, RuleInfo, Variant};
pub use scale::Scale;
pub use schedule::{LearningRate, Schedule};
pub use sgd::Sgd;

use crate::backend::adam::AdamArgs;
use crate::backend::{Backend, MomentumArgs, Param, UpdateArgs};
use crate::memory::Span;
use crate::quant::{GroupedShape, RngUse, StateSpec};

/// The kinds of parameters that rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamClass {
    /// The projection of queries or of keys: its rows belong to heads.
    QueryOrKey,
    /// Any other matrix of a block.
    Matrix,
    /// The token embedding of a model whose head is another matrix.
    Embedding,
    /// The token embedding that is the head too.
    TiedEmbedding,
    /// The untied head.
    Head,
    /// The gain of a norm.
    Norm,
    /// A bias.
    Bias,
}

impl ParamClass {
    /// Whether it is a gain or a bias.
    pub fn is_vector(self) -> bool {
        matches!(self, Self::Norm | Self::Bias)
    }
}

/// What a rule may know of a parameter when it declares its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamInfo {
    /// What it is for.
    pub class: ParamClass,
    /// Rows, columns, group; a vector has one row.
    pub shape: GroupedShape,
    /// Elements per attention head of the model.
    pub head_dim: usize,
}

/// What is the same for all parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepInfo {
    /// Number of the step, from 1.
    pub number: u64,
    /// Learning rate of the step, by the schedule.
    pub lr: f64,
    /// Seed of the run.
    pub seed: u64,
}

impl StepInfo {
    /// Arguments of [`crate::backend::ops::Update::momentum`] that leave everything out.
    pub fn momentum(&self) -> MomentumArgs {
        let Self { seed, number, .. } = *self;
        let (keep, add, of_x, of_old, of_new) = (0.0, 0.0, 0.0, 0.0, 0.0);
        MomentumArgs { seed, number: number as u32, keep, add, of_x, of_old, of_new, sign: 0, usage: RngUse::M as u32 }
    }

    /// Arguments of [`crate::backend::ops::Update::apply_update`] that change nothing.
    pub fn update(&self) -> UpdateArgs {
        UpdateArgs { seed: self.seed, number: self.number as u32, lr: 0.0, decay: 0.0, reserved: 0 }
    }
}

/// A rule that updates parameters.
pub trait Optimizer: Send + Sync {
    /// The state of a parameter, in the order of the file; zero at first.
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec>;

    /// Float32 numbers beside the gradient that a step of the parameter needs.
    fn workspace(&self, _param: &ParamInfo) -> usize {
        0
    }

    /// Bytes of host memory that steps take beside the backend's, once for all parameters.
    fn host_bytes(&self) -> usize {
        0
    }

    /// How long the steps since the last call have searched for projections.
    fn take_search_seconds(&self) -> f64 {
        0.0
    }

    /// The constants of a step that is [`crate::backend::ops::Update::adam`] and nothing else: several of them may be made at
    /// once.
    fn fused(&self, _param: &Param, _at: &StepInfo) -> Option<AdamArgs> {
        None
    }

    /// One update of a parameter, from its complete gradient (float32, unpadded), which the rule may overwrite.
    /// `workspace` has as many numbers as the rule asked for, with any content.
    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, workspace: Span, at: &StepInfo);
}
