//! Trains LLaMA-family language models whose weights exist only as packed INT4 nibbles.
//!
//! The tree is the architecture; a floor imports only from floors below it.
//!
//! | floor | room | what lives there |
//! | --- | --- | --- |
//! | 6 | `cli` | one file per subcommand |
//! | 5 | `checkpoint` | training state <-> file |
//! | 4 | `train` | the loop, schedules, evaluation, metrics |
//! | 3 | `model` | one table of parameters, forward, backward |
//! | 3 | `data` | tokenizers, corpora, shards, batches |
//! | 3 | `backend::cpu` | the operations on a CPU |
//! | 2 | `backend` | the operations' contracts |
//! | 2 | `format` | the file format over bytes: no I/O, knows no model |
//! | 1 | `config` | the TOML configuration, presets, overrides, validation |
//! | 1 | `optim` | update rules: per-tensor scalars and the per-element formula |
//! | 1 | `store` | memory maps, locks, atomic replace |
//! | 1 | `memory` | the plan and the arena that obeys it |
//! | 0 | `nibble` | pure arithmetic on bytes: groups, planes, rounding, state codecs |
//! | 0 | `error` | one error enum per layer |

pub mod backend;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod format;
pub mod memory;
pub mod model;
pub mod nibble;
pub mod optim;
pub mod store;
pub mod train;
