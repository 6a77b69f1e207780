//! The operations of the CPU backend, each against its float64 reference, and the references themselves.

#[path = "../harness/mod.rs"]
mod harness;

mod activation_pack;
mod activation_quant;
mod attention;
mod attention_grad;
mod bias;
mod conformance;
mod embedding;
mod linear;
mod linear_bf16;
mod linear_grad_int8;
mod linear_grad_weight;
mod linear_int8;
mod loss;
mod matmul;
mod norm;
mod quantizers;
mod reference;
mod rope;
mod rule_rows;
mod swiglu;
