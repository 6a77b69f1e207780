//! CUDA's libraries on the CPU, so that the program's own kernels and calls run under `cargo test` without a GPU.
//!
//! [`libraries`] is a folder with `libcuda.so.1`, `libnvrtc.so.13` and `libcublasLt.so.13`. The first holds every
//! kernel of `src/backend/cuda/kernels/*.cu`, compiled by the host's C++ compiler. A program that is told to look for
//! its libraries there (`TETRAD_CUDA_LIBRARIES`; [`install`] sets it for a process) behaves as on a machine with a GPU.
//!
//! A single kernel is run by [`Launch`] on [`Buffer`]s:
//!
//! ```
//! use tetrad_emulator::{Buffer, Launch};
//! let x = Buffer::of(&[1.0f32, 2.0, 3.0]);
//! let y = Buffer::poisoned::<f32>(3);
//! for order in 0..4 {
//!     Launch::new("check_scale").grid([1, 1, 1]).threads(32).order(order)
//!         .buffer(&x).buffer(&y).u32(3).f32(2.0).run().unwrap();
//!     assert_eq!(y.read::<f32>(), [2.0, 4.0, 6.0]);
//! }
//! ```
//!
//! # What it checks
//! A block runs as fibers on one thread of the host, in an order that [`set_order`] chooses; a warp-wide instruction is
//! computed by the last lane that arrives. A launch fails, with kernel, block, thread and line,
//! - at a deadlock: a barrier or collective that a thread never reaches, because it returned or waits elsewhere; and
//!   where threads meet at different lines;
//! - at an access outside of an allocation, of what [`forbid`] left of it, of an array in shared memory, or at one to
//!   memory of the host, to the byte (the compiler reports every access, see `runtime/access.cpp`);
//! - at two accesses to shared memory, one of them a write, that no barrier orders, asynchronous copies among them
//!   until they are waited for: in whatever order the threads ran;
//! - at wide accesses that are not aligned, and at more threads or shared memory than the kernel may have.
//!
//! What is undefined is poisoned: shared memory, local variables, fresh device and pinned memory, the destination of a
//! copy under way. A stream works when somebody waits for it, or as soon as it may
//! ([`set_eager`]). Failures of launches by way of the driver's calls stick
//! to their stream as on a device; [`last_failure`] has the text, which is printed too.
//!
//! # What it does not
//! Time; the memory model beyond barriers (fences, orders of atomics); unordered accesses to device memory, by blocks
//! or threads; the number of registers; conflicts of banks; `wgmma`, TMA, clusters, named barriers, masks other than
//! all lanes. Sums of `mma` and of cuBLASLt have an order of their own. A kernel that never ends is not stopped.
//!
//! # Variables
//! `TETRAD_EMULATOR_ORDER` (see [`set_order`]), `_CHECKS=0` (see [`set_checked`]), `_THREADS` (of the host, for blocks
//! side by side), `_DEVICES` (0 or 1), `_DRIVER` (the version as a number, 13000), `_CAPABILITY` (9.0), `_MEMORY`
//! (bytes of the device), `_MULTIPROCESSORS` (4).

mod buffer;
mod launch;
mod library;

pub use buffer::{Buffer, Element};
pub use launch::Launch;
pub use library::{
    allocations, forbid, install, last_failure, latest_allocation, libraries, live_bytes, set_checked, set_eager,
    set_order,
};
