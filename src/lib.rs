//! Trains LLaMA-family language models whose weights exist only as packed INT4 nibbles.
//!
//! The tree is the architecture; a floor imports only from floors below it.
//!
//! | floor | room | what lives there |
//! | --- | --- | --- |
//! | 11 | `cli` | the program's own, outside the library: one file per subcommand |
//! | 10 | `convert` | models of other programs <-> file: GGUF, safetensors, Hugging Face |
//! | 9 | `checkpoint` | training state <-> file |
//! | 8 | `train` | the loop, schedules, evaluation, metrics |
//! | 7 | `data` | from a configuration to a run's training and validation rows |
//! | 6 | `data::batch` | rows and their order: windows, packing, mixing, shuffling |
//! | 5 | `config` | the TOML configuration: the rooms' settings put together, presets, overrides, validation |
//! | 5 | `data::shard` | prepared token ids, memory-mapped |
//! | 4 | `data::tokenize` | tokenizers, special tokens, chat templates, samples |
//! | 3 | `data::source` | files and the documents in them |
//! | 4 | `model` | one table of parameters, forward, backward |
//! | 4 | `backend::cpu` | the operations on a CPU |
//! | 4 | `backend::cuda` | the operations on an NVIDIA GPU |
//! | 3 | `backend` | the operations' contracts |
//! | 3 | `backend::cuda::runtime` | CUDA without any operation: driver, compiler, device, matrix products |
//! | 2 | `store` | memory maps, locks, atomic replace |
//! | 2 | `optim` | update rules: per-tensor scalars and the per-element formula |
//! | 2 | `format` | the file format over bytes: no I/O, knows no model |
//! | 1 | `memory` | the plan and the arena that obeys it |
//! | 0 | `quant` | pure arithmetic on bytes: groups, grids, rounding, random numbers, state codecs |
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
pub mod optim;
pub mod quant;
pub mod store;
pub mod train;
