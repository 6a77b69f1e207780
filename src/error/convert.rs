//! Errors of converting models from and to the files of other programs.

use super::{AdapterError, BackendError, CheckpointError, DataError, FormatError, StoreError, WriteError};
use std::path::PathBuf;

/// Why a file is not valid GGUF. Offsets are in bytes from the start of the file.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum GgufError {
    #[error("begins with {found:02x?}, a GGUF file begins with \"GGUF\"")]
    Magic { found: Vec<u8> },
    #[error("is GGUF version {found}; versions 2 and 3 are read, little-endian; convert it with a newer llama.cpp")]
    Version { found: u32 },
    #[error("{what} at byte {at} needs {needed} bytes, and {left} are left; the file is cut off or damaged")]
    Truncated { what: &'static str, at: usize, needed: u64, left: usize },
    #[error("states {found} {what}, at most {max} are read")]
    Count { what: &'static str, found: u64, max: u64 },
    #[error("{what} at byte {at} is not UTF-8")]
    Utf8 { what: &'static str, at: usize },
    #[error("key {key} has a value of type {found}; types 0 to 12 exist, arrays nested at most {max} deep")]
    ValueType { key: String, found: u32, max: usize },
    #[error("duplicate key {key}")]
    KeyTwice { key: String },
    #[error("duplicate tensor {tensor}")]
    TensorTwice { tensor: String },
    #[error("general.alignment is {found}; a power of two from 1 to 65536 is needed")]
    Alignment { found: String },
    #[error("tensor {tensor} has {found} dimensions; 1 to 4 are possible")]
    DimCount { tensor: String, found: u32 },
    #[error("tensor {tensor} is {dims:?}: a dimension of zero, or more elements than 2^48")]
    Dims { tensor: String, dims: Vec<u64> },
    #[error("tensor {tensor} has rows of {cols} elements, {kind} needs a multiple of {block}")]
    Block { tensor: String, cols: u64, kind: &'static str, block: u64 },
    #[error(
        "tensor {tensor} has type {found}; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K and Q6_K are read; \
         make a file of one of those with llama-quantize"
    )]
    TensorType { tensor: String, found: String },
    #[error("tensor {tensor} is at offset {offset} of the data, which is not a multiple of {alignment}")]
    Unaligned { tensor: String, offset: u64, alignment: u64 },
    #[error(
        "tensor {tensor} has {len} bytes at offset {offset} of the data, which ends at {end}; the file is cut off or damaged"
    )]
    Outside { tensor: String, offset: u64, len: u64, end: u64 },
    #[error("tensors {first} and {second} overlap")]
    Overlap { first: String, second: String },
    #[error("key {key} is missing")]
    KeyMissing { key: String },
    #[error("key {key} is {found}; {needed} is needed")]
    KeyValue { key: String, found: String, needed: String },
}

/// Why a file is not valid safetensors.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum SafetensorsError {
    #[error("has {found} bytes; at least 8 of length and a header of 2 are needed")]
    Short { found: usize },
    #[error("states a header of {found} bytes; at most {max} are possible here")]
    HeaderLen { found: u64, max: u64 },
    #[error("has an invalid JSON header: {reason}")]
    Json { reason: String },
    #[error("duplicate tensor {tensor}")]
    TensorTwice { tensor: String },
    #[error("tensor {tensor} has type {found}; F32, F16 and BF16 are read")]
    TensorType { tensor: String, found: String },
    #[error("tensor {tensor} is {dims:?}: no or too many dimensions, one of zero, or more than 2^48 elements")]
    Dims { tensor: String, dims: Vec<u64> },
    #[error("tensor {tensor} has {found} bytes by its offsets, {needed} by its shape and type")]
    Len { tensor: String, found: u64, needed: u64 },
    #[error(
        "tensor {tensor} lies at {begin}..{end} of the data, which has {len} bytes; the file is cut off or damaged"
    )]
    Outside { tensor: String, begin: u64, end: u64, len: u64 },
    #[error("the data before tensor {tensor} has a hole, or overlaps it (byte {expected}, it begins at {begin})")]
    Hole { tensor: String, expected: u64, begin: u64 },
    #[error("has {left} bytes after its last tensor")]
    Left { left: u64 },
}

/// Why a model could not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The file system.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The `.tetrad` file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An invalid GGUF file.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: GgufError,
    },
    /// An invalid safetensors file.
    #[error("{}: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SafetensorsError,
    },
    /// A file of a model's directory that cannot be used.
    #[error("{}: {what}", path.display())]
    Source {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do next.
        what: String,
    },
    /// An unsupported model.
    #[error(
        "{}: {what}; LLaMA, Mistral without sliding window, Qwen2 and Qwen3 are the models that can be imported",
        path.display()
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it asks for, by name.
        what: String,
    },
    /// Missing or surplus tensors.
    #[error("{}: {count} {problem}: {names}", path.display())]
    Tensors {
        /// The file or folder.
        path: PathBuf,
        /// How many.
        count: usize,
        /// "tensors are missing" or "tensors are not part of ...".
        problem: &'static str,
        /// Their names, the first twenty.
        names: String,
    },
    /// A tensor whose shape contradicts the configuration.
    #[error("{}: tensor {tensor} is {found:?}, the model's configuration requires {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its name there.
        tensor: String,
        /// Its dimensions, rows first.
        found: Vec<u64>,
        /// Those of the configuration.
        expected: Vec<u64>,
    },
    /// A number that is not a possible weight.
    #[error("{}: tensor {tensor}, row {row} holds a number that is not finite, or too large for 16 bits", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Its name there.
        tensor: String,
        /// The row.
        row: usize,
    },
    /// The model does not make a valid `.tetrad` file.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file that was to be written.
        path: PathBuf,
        /// The rule.
        source: Box<FormatError>,
    },
    /// Writing failed.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: WriteError,
    },
    /// An adapter of another program, or for one.
    #[error("{}: {source}", path.display())]
    Adapter {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        source: Box<AdapterError>,
    },
    /// A device that computes what is converted.
    #[error(transparent)]
    Device(#[from] BackendError),
    /// Options that cannot be met.
    #[error("{0}")]
    Asked(String),
}
