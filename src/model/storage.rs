//! `[storage]`: bits of weights and of optimizer state.

use crate::backend::{Moment, SecondMoment};
use crate::optim::StateConfig;
use crate::quant::{WeightCodec, WeightFormat};
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

/// Whether a group has an offset beside its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// value = scale (code - 8): GGUF's Q4_0.
    Symmetric,
    /// value = scale code + offset: GGUF's Q4_1.
    Asymmetric,
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
    /// The format of the blocks' matrices. With [`StorageConfig::table_format`] the one place where words become
    /// formats.
    pub fn matrix_format(&self) -> WeightFormat {
        match self.weights {
            Weights::Int4 => self.packed(),
            Weights::Int4Simulated => WeightFormat::simulated(self.packed().codec()),
            Weights::Bf16 => WeightFormat::BF16,
            Weights::F32 => WeightFormat::F32,
        }
    }

    /// The format of the embedding or the head.
    pub fn table_format(&self, table: TableStorage) -> WeightFormat {
        match table {
            TableStorage::Int4 => self.packed(),
            TableStorage::Int8 => WeightFormat::INT8,
            TableStorage::Bf16 => WeightFormat::BF16,
            TableStorage::F32 => WeightFormat::F32,
        }
    }

    fn packed(&self) -> WeightFormat {
        let codec = match self.scheme {
            Scheme::Symmetric => WeightCodec::Int4,
            Scheme::Asymmetric => WeightCodec::Int4Offset,
        };
        WeightFormat::of(codec).with_residue(self.residue)
    }

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
