//! Files: `.tetrad` files as they are written, read, damaged, dumped and replaced, and those of other programs.

#[path = "../harness/mod.rs"]
mod harness;
mod support;

mod adapters;
mod convert;
mod damage;
mod dump;
mod fixtures;
mod fuzz;
mod metadata;
mod named_state;
mod replace;
mod roundtrip;
