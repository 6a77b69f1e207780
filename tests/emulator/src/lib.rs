//! CUDA's libraries on the CPU, so that the program's own kernels and calls run under `cargo test` without a GPU.
//!
//! [`libraries`] is a folder with `libcuda.so.1`, `libnvrtc.so.13` and `libcublasLt.so.13`. The first holds every kernel
//! of `src/backend/cuda/kernels/*.cu`, compiled by the host's C++ compiler: a block runs as fibers on one thread, and
//! warp-wide instructions are computed by the last lane that arrives. A program that is told to look for its
//! libraries there (`TETRAD_CUDA_LIBRARIES`) behaves as on a machine with a GPU.
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

mod buffer;
mod launch;
mod library;

pub use buffer::{Buffer, Element};
pub use launch::Launch;
pub use library::{allocations, install, last_failure, libraries, live_bytes, set_order};
