//! `[storage]`: bits of weights and of optimizer state.

use super::ModelConfig;
use crate::backend::{Compute, Moment, SecondMoment};
use crate::error::Problems;
use crate::optim::{OptimizerContext, StateConfig};
use crate::quant::{GROUPS, Simulation, WeightCodec, WeightFormat};
use serde::{Deserialize, Serialize};

/// How the seven matrices of a block are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// Packed nibbles: `codes`, and `residue` unless switched off.
    Int4,
    /// The same with four-bit floats, MXFP4: blocks of 32 under powers of two.
    Fp4,
    /// One signed byte per weight, which products read whole: as much memory as codes and residue, sixteen times finer.
    Int8,
    /// Products see a float32 master copy rounded to INT4 as in the code of arXiv 2502.17055, if groups have 256 elements
    /// and are asymmetric: groups run on from a row to the next.
    Int4Simulated,
    /// The same in groups that begin anew in each row, as packed weights have them.
    Int4SimulatedRows,
    /// Products see a float32 master copy rounded to FP4 E1M2 as in the code of arXiv 2502.17055, if groups have 256
    /// elements: their two largest are kept.
    Fp4Simulated,
    /// bfloat16, stochastically rounded.
    Bf16,
    /// float32.
    F32,
}

/// How embedding and head are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableStorage {
    /// Packed integers, like a matrix.
    Int4,
    /// Packed four-bit floats.
    Fp4,
    /// One signed byte per weight.
    Int8,
    /// bfloat16, stochastically rounded.
    Bf16,
    /// float32.
    F32,
}

impl From<TableStorage> for Weights {
    /// Matrices that are stored like a table.
    fn from(table: TableStorage) -> Self {
        match table {
            TableStorage::Int4 => Self::Int4,
            TableStorage::Fp4 => Self::Fp4,
            TableStorage::Int8 => Self::Int8,
            TableStorage::Bf16 => Self::Bf16,
            TableStorage::F32 => Self::F32,
        }
    }
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
        let offsets = self.scheme == Scheme::Asymmetric;
        match self.weights {
            Weights::Int4 => self.packed(),
            Weights::Fp4 => WeightFormat::of(WeightCodec::Fp4).with_residue(self.residue),
            Weights::Int4Simulated => WeightFormat::simulated(Simulation::Int4 { offsets }),
            Weights::Int4SimulatedRows => WeightFormat::simulated(Simulation::Int4Rows { offsets }),
            Weights::Fp4Simulated => WeightFormat::simulated(Simulation::Fp4),
            Weights::Int8 => WeightFormat::INT8,
            Weights::Bf16 => WeightFormat::BF16,
            Weights::F32 => WeightFormat::F32,
        }
    }

    /// The format of the embedding or the head.
    pub fn table_format(&self, table: TableStorage) -> WeightFormat {
        match table {
            TableStorage::Int4 => self.packed(),
            TableStorage::Fp4 => WeightFormat::of(WeightCodec::Fp4).with_residue(self.residue),
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

    /// What the optimizer of a model that is stored so is used for.
    pub fn optimizer_context(&self, model: &ModelConfig) -> OptimizerContext {
        OptimizerContext { state: self.state(), tied: model.tied, smallest_side: model.smallest_side() }
    }
}

impl StorageConfig {
    /// Every mistake that these words show for a model whose embedding and head share their weights or not.
    pub fn problems(&self, tied: bool) -> Problems {
        let mut problems = Problems::default();
        let sizes = GROUPS.map(|group| group.to_string()).join(", ");
        problems.need(
            GROUPS.contains(&self.group),
            "storage.group",
            self.group,
            format_args!("must be one of {sizes}"),
        );
        let matrices = self.matrix_format();
        let packed = matrices.codec().takes_residue();
        let codecs = self.codecs(tied);
        let block = codecs.into_iter().find_map(WeightCodec::block);
        problems.need(
            block.is_none_or(|block| self.group == block),
            "storage.group",
            self.group,
            format_args!("must be {}, the block of four-bit floats", block.unwrap_or_default()),
        );
        let tables = codecs[1..].iter().any(|codec| codec.takes_residue());
        problems.need(
            self.residue || packed || tables,
            "storage.residue",
            self.residue,
            "only packed weights have a residue to leave out; remove the key or set storage.weights=\"int4\"",
        );
        problems.need(
            !self.feedback || packed || tables,
            "storage.feedback",
            self.feedback,
            "feeds back the rounding of packed weights, and none are packed; set it to false or storage.weights=\"int4\"",
        );
        problems.need(
            self.scheme == Scheme::Symmetric || self.takes_offsets(tied),
            "storage.scheme",
            "\"asymmetric\"",
            "only four-bit integers have offsets, and no weights are; remove the key or set storage.weights=\"int4\"",
        );
        problems
    }

    /// Of matrices, embedding and head.
    fn codecs(&self, tied: bool) -> [WeightCodec; 3] {
        let head = if tied { self.embedding } else { self.head };
        let [embedding, head] = [self.embedding, head].map(|table| self.table_format(table).codec());
        [self.matrix_format().codec(), embedding, head]
    }

    /// Whether anything is stored in integers that have offsets if the scheme says so.
    pub fn takes_offsets(&self, tied: bool) -> bool {
        let simulated = self.matrix_format().simulates().is_some_and(|simulation| simulation != Simulation::Fp4);
        simulated || self.codecs(tied).into_iter().any(WeightCodec::is_int4)
    }

    /// Whether products of blocks, or with a head of its own, are with weights that an arithmetic takes as they are.
    pub fn has_products_in(&self, compute: Compute) -> bool {
        self.codecs(false).into_iter().any(|codec| compute.takes(codec))
    }

    /// Whether matrices of blocks have four bits in their products.
    pub fn has_four_bit_products(&self) -> bool {
        let matrices = self.matrix_format();
        matrices.codec().takes_residue() || matrices.simulates().is_some()
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
