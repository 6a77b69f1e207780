//! The operations on a CPU: rayon over shapes, explicit SIMD where it pays, a portable reference for each.
