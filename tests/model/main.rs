//! The model and its training: against recordings, across variants that must give the same bytes, and on real text.

#[path = "../harness/mod.rs"]
mod harness;

mod accumulation;
mod adapter;
mod audit;
mod autotune;
mod clip;
mod compute;
mod every_rule;
mod flops;
mod golden;
mod guard;
mod int8;
mod learns;
mod packed_rows;
mod ranks;
mod recompute;
mod residence;
mod sparse_embedding;
mod straight_through;
mod together;
mod trainable;
