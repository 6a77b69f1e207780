//! `[storage]`: bits of weights and of optimizer state.

use crate::backend::{Moment, Scheme, SecondMoment};
use crate::optim::StateConfig;
use serde::{Deserialize, Serialize};

/// How the seven matrices of a block are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// Packed nibbles: `codes`, and `residue` unless switched off.
    Int4,
    /// Four-bit values in the products over a float32 master copy: the published simulation.
    Int4Simulated,
    /// bfloat16, stochastically rounded.
    Bf16,
    /// float32.
    F32,
}

/// How embedding and head are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableStorage {
    /// Packed like a matrix.
    Int4,
    /// One signed byte per weight.
    Int8,
    /// bfloat16, stochastically rounded.
    Bf16,
    /// float32.
    F32,
}

/// `[storage]`: bits of weights and state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// The matrices of the blocks.
    pub weights: Weights,
    /// The embedding (and the head, if tied).
    pub embedding: TableStorage,
    /// The untied head.
    pub head: TableStorage,
    /// Elements per group: 32, 64, 128 or 256.
    pub group: usize,
    /// Symmetric or asymmetric groups.
    pub scheme: Scheme,
    /// Whether packed weights keep the four bits below their code.
    pub residue: bool,
    /// Whether rounding errors are fed back into the momentum.
    pub feedback: bool,
    /// First moment.
    pub m: Moment,
    /// Second moment.
    pub v: SecondMoment,
}

impl StorageConfig {
    /// What it says of optimizer state.
    pub fn state(&self) -> StateConfig {
        StateConfig { m: self.m, v: self.v, feedback: self.feedback }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            weights: Weights::Int4,
            embedding: TableStorage::Bf16,
            head: TableStorage::Bf16,
            group: 64,
            scheme: Scheme::Symmetric,
            residue: true,
            feedback: false,
            m: Moment::Int4,
            v: SecondMoment::Int4,
        }
    }
}
