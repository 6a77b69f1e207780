//! Trains LLaMA-family language models whose weights exist only as packed INT4 nibbles.
//!
//! The tree is the architecture; a floor imports only from floors below it.
//!
//! | floor | room | what lives there |
//! | --- | --- | --- |
//! | 8 | `cli` | the program's own, outside the library: one file per subcommand |
//! | 7 | `convert` | models of other programs <-> file: GGUF, safetensors, Hugging Face |
//! | 6 | `checkpoint` | training state <-> file |
//! | 5 | `train` | the loop, schedules, evaluation, metrics |
//! | 4 | `model` | one table of parameters, forward, backward |
//! | 4 | `data` | tokenizers, corpora, shards, batches |
//! | 4 | `backend::cpu` | the operations on a CPU |
//! | 4 | `backend::cuda` | the operations on an NVIDIA GPU |
//! | 3 | `backend` | the operations' contracts |
//! | 3 | `backend::cuda::runtime` | CUDA without any operation: driver, compiler, device, matrix products |
//! | 2 | `store` | memory maps, locks, atomic replace |
//! | 2 | `optim` | update rules: per-tensor scalars and the per-element formula |
//! | 2 | `format` | the file format over bytes: no I/O, knows no model |
//! | 1 | `config` | the TOML configuration, presets, overrides, validation |
//! | 1 | `memory` | the plan and the arena that obeys it |
//! | 0 | `nibble` | pure arithmetic on bytes: groups, planes, rounding, state codecs |
//! | 0 | `error` | one error enum per layer |

pub mod backend;
pub mod checkpoint;
pub mod config;
pub mod convert;
pub mod data;
pub mod error;
pub mod format;
pub mod memory;
pub mod model;
pub mod nibble;
pub mod optim;
pub mod store;
pub mod train;
