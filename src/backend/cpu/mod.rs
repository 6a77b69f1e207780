//! The operations on a CPU: rayon over shapes, explicit SIMD where it pays, a portable reference for each.

mod isa;
pub mod optimizer;
pub mod param_rows;
mod update;

pub use isa::Isa;
