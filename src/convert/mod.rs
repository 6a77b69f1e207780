//! Models of other programs <-> our file: GGUF, safetensors, Hugging Face directories.
//!
//! - In: a [`Source`] is a mapped model whose tensors match its configuration; [`import`] streams
//!   it into a file, tensor by tensor. Q4_0, Q4_1, Q8_0 and MXFP4 groups keep their bits; Q4_K keeps its codes;
//!   everything else is rounded, to codes and residue unless told otherwise.
//! - Out: [`export_gguf`] and [`export_hugging_face`] stream a file's planes out. Packed matrices become Q4_0 or Q4_1
//!   with the same bits.
//! - Adapters: [`adapter`] reads and writes those of other programs; [`merge()`] adds adapters to the weights of their base.
//!
//! Memory: beyond the mapped files, the planes of one tensor at a time, the tokenizer, and buffers of rows.

pub mod adapter;
mod export;
pub mod gguf;
mod gguf_model;
mod hugging_face;
mod import;
mod merge;
mod names;
mod open;
pub mod quants;
pub mod safetensors;
mod source;
mod tokenizer;

pub use export::{FloatType, GgufTypes, TableType, export_gguf, export_hugging_face, gguf_left_out};
pub use import::{Options, Summary, import};
pub use merge::{Calibration, MergeSummary, MergeTarget, merge};
pub use open::open;
pub use source::{Beside, Source};

/// Takes the next bytes of a tensor.
pub type Sink<'a> = dyn FnMut(&[u8]) -> std::io::Result<()> + 'a;

/// Called with the bytes done so far and the total.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;
