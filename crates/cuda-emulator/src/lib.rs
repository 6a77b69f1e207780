//! CUDA's libraries on the CPU, so that a program's kernels and its calls to the driver run under `cargo test` without
//! a GPU.
//!
//! [`Emulator::build`] compiles kernels with the host's C++ compiler into a folder with `libcuda.so.1`,
//! `libnvrtc.so.13`, `libcublasLt.so.13` and `libnccl.so.2`. A program that loads its libraries from [`Emulator::libraries`] behaves as
//! on a machine with a GPU. A single kernel is run by [`Launch`] on [`Buffer`]s:
//!
//! ```no_run
//! use cuda_emulator::Emulator;
//! use std::path::Path;
//! let emulator = Emulator::build(&[Path::new("src/kernels")], Path::new("target/emulator"))?;
//! let (x, y) = (emulator.buffer(&[1.0f32, 2.0, 3.0]), emulator.poisoned::<f32>(3));
//! for order in 0..4 {
//!     let launch = emulator.launch("scale").grid([1, 1, 1]).threads(32).order(order);
//!     launch.buffer(&x).buffer(&y).u32(3).f32(2.0).run()?;
//!     assert_eq!(y.read::<f32>(), [2.0, 4.0, 6.0]);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Kernels include [`HEADER`] as `gpu.h` and are written in its terms: for NVRTC these are CUDA's instructions, for the
//! host's compiler the emulator's functions. The program hands the same text to NVRTC.
//!
//! # What it checks
//! A block runs as fibers on one thread of the host, in an order that [`Emulator::set_order`] chooses; the last lane to
//! arrive computes a warp-wide instruction. A launch fails, with kernel, block, thread and line,
//! - at a deadlock: a barrier or collective that a thread never reaches, because it returned or waits elsewhere; and
//!   where threads meet at different lines;
//! - at an access outside of an allocation, of what [`Emulator::forbid`] left of it, or of an array in shared memory,
//!   and at an access to memory of the host, to the byte (the compiler reports every access, see `runtime/access.cpp`);
//! - at two accesses to shared memory, one of them a write, that no barrier orders, asynchronous copies among them
//!   until they are waited for, whatever the order in which the threads ran;
//! - at wide accesses that are not aligned, and at more threads or shared memory than the kernel may have.
//!
//! What is undefined is poisoned: shared memory, local variables, fresh device and pinned memory, the destination of an
//! asynchronous copy until it is waited for. A stream works when somebody waits for it, or as soon as it may
//! ([`Emulator::set_eager`]). A failed launch leaves its stream in an error state, as on a device;
//! [`Emulator::last_failure`] has the message, which is printed too.
//!
//! Ranks by NCCL are threads or processes, one device each. What a call receives is poisoned until it comes; a call is done
//! when its stream is, and only after the peers' calls. Calls that do not match (another call, count, type or root, or
//! ranks that wait for each other in a circle), for which NCCL hangs, fail with `ncclInvalidUsage`; so do two ranks on one
//! device, and calls of a communicator that does not block before the last one is known to be done. A peer that is gone is
//! `ncclRemoteError`, and its peers' streams stand still until they abort, as kernels do.
//!
//! [`Emulator::interpret`] puts another compiler and [`Interpreter`] of kernels behind the same driver.
//!
//! # What it does not
//! Time; the memory model beyond barriers (fences, orders of atomics); unordered accesses to device memory, by blocks
//! or threads; the number of registers; bank conflicts; `wgmma`, TMA, clusters, named barriers, masks other than all
//! lanes. Sums of `mma` and of cuBLASLt have an order of their own. A kernel that never ends is not stopped.
//!
//! # Variables
//! `CUDA_EMULATOR_ORDER` (see [`Emulator::set_order`]), `_CHECKS=0` (see [`Emulator::set_checked`]), `_THREADS` (of the
//! host, for blocks that run in parallel), `_DEVICES` (0 to 8), `_DRIVER` (the version as a number, 13000),
//! `_CAPABILITY` (9.0), `_MEMORY` (bytes of the device), `_MULTIPROCESSORS` (4), `_LT_KNOWS` (products that cuBLASLt knows an
//! algorithm for: "unmasked", "unaided", "nothing"; else all), `_LOSE=rank:call` (the process of that
//! rank ends without a word at that call of NCCL, counted from 1); `CXX`, the compiler (`c++`).

mod buffer;
mod compile;
mod emulator;
mod interpreter;
mod launch;

pub use buffer::{Buffer, Element};
pub use compile::BuildError;
pub use emulator::Emulator;
pub use interpreter::{Described, Failure, Interpreter, Launched, Program};
pub use launch::Launch;

/// The header that kernels are written with, `gpu.h`.
pub const HEADER: &str = include_str!("../include/gpu.h");
