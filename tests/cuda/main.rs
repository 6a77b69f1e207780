//! The CUDA backend, on the emulated device and on a real one.
//!
//! The order in which emulated threads run is a setting of the calling thread, so tests run side by side. What a process
//! reads only once (libraries, variables) is tested in child processes, see `errors.rs`.

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../../benches/gpu/measured/mod.rs"]
mod measured;

mod adapter;
mod attention;
mod audit;
mod bytes;
mod clip;
mod conformance;
mod device;
mod errors;
mod exact;
mod instructions;
mod linear;
mod linear_grad_int8;
mod matmul;
mod optimizer;
mod quantizers;
mod ranks;
mod rows;
mod rules;
mod script;
mod together;
mod training;
