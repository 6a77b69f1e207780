//! Trains LLaMA-family language models whose weights exist only as packed INT4 nibbles.
//!
//! The tree is the architecture; a floor imports only from floors below it.
//!
//! | floor | room | what lives there |
//! | --- | --- | --- |
//! | 12 | `cli` | the program's own, outside the library: one file per subcommand |
//! | 11 | `convert` | models of other programs <-> file: GGUF, safetensors, Hugging Face |
//! | 10 | `checkpoint` | training state <-> file |
//! | 9 | `train` | the loop, schedules, evaluation, metrics |
//! | 8 | `config` | the TOML configuration: the rooms' settings put together, presets, overrides, validation |
//! | 7 | `data` | settings of text and tokenizer, and from them a run's training and validation rows |
//! | 6 | `data::batch` | rows and their order: windows, packing, mixing, shuffling |
//! | 5 | `data::shard` | prepared token ids, memory-mapped |
//! | 5 | `model` | one table of parameters, forward, backward |
//! | 4 | `data::tokenize` | tokenizers, special tokens, chat templates, samples |
//! | 4 | `backend::cpu` | the operations on a CPU |
//! | 4 | `backend::cuda` | the operations on an NVIDIA GPU |
//! | 4 | `optim` | update rules: what each keeps of a parameter, and its step made of the backend's operations |
//! | 3 | `data::source` | files and the documents in them |
//! | 3 | `backend` | the operations' contracts |
//! | 3 | `backend::cuda::runtime` | CUDA without any operation: driver, compiler, device, matrix products |
//! | 2 | `store` | memory maps, locks, atomic replace |
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
