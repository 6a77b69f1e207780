//! The CUDA backend on the PTX that NVRTC makes of its kernels, which an interpreter runs behind the emulated driver: a second
//! opinion beside the emulator, which compiles the kernels' C++ and reads no PTX. The tests are those of `tests/cuda`, but for
//! adapters, clipping and ranks, which come to no other kernels (but one, see `sums`) and take a minute, and what is about
//! libraries.
//!
//! The whole program takes less than three minutes on two cores of its own: two and a half processor minutes, and one more where
//! NVRTC has to compile.

#[path = "../harness/mod.rs"]
mod harness;

#[path = "../cuda/attention/mod.rs"]
mod attention;
#[path = "../cuda/audit.rs"]
mod audit;
#[path = "../cuda/bytes.rs"]
mod bytes;
#[path = "../cuda/conformance.rs"]
mod conformance;
#[path = "../cuda/device.rs"]
mod device;
#[path = "../cuda/instructions.rs"]
mod instructions;
#[path = "../cuda/linear.rs"]
mod linear;
#[path = "../cuda/linear_grad_int8.rs"]
mod linear_grad_int8;
#[path = "../cuda/matmul.rs"]
mod matmul;
#[path = "../cuda/optimizer.rs"]
mod optimizer;
#[path = "../cuda/quantizers.rs"]
mod quantizers;
#[path = "../cuda/rows.rs"]
mod rows;
#[path = "../cuda/rules.rs"]
mod rules;
#[path = "../cuda/together.rs"]
mod together;
#[path = "../cuda/training.rs"]
mod training;

mod ampere;
mod mutations;
mod sums;
mod whole;

/// The work of the processes that NVRTC runs in; nothing where no work is asked for.
#[test]
fn compiles_for_its_other_tests() {
    ptx_interpreter::answer();
}
