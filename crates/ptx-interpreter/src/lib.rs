//! Runs the PTX that NVRTC makes of kernels, thread by thread: a second opinion beside the emulator.
//!
//! The emulator ([`cuda_emulator`]) compiles the sources of kernels with the host's C++ compiler, and never reads a line of
//! PTX: what a kernel says in inline assembly, and what NVRTC makes of the rest, is not what it runs. Here it is: a
//! [`Device`] takes the place of the emulator's kernels behind the same driver, so that whatever runs on the emulated device
//! runs on NVRTC's output, with the same sources and the same options.
//!
//! A [`Module`] is launched by itself on memory of a [`Heap`]:
//!
//! ```
//! use ptx_interpreter::{Heap, Launch, Manner, Module};
//! let text = "
//! .visible .entry double(.param .u64 numbers) {
//!     .reg .b32 %r<4>; .reg .b64 %rd<4>;
//!     ld.param.u64 %rd1, [numbers];
//!     mov.u32 %r1, %tid.x;
//!     mul.wide.u32 %rd2, %r1, 4;
//!     add.s64 %rd3, %rd1, %rd2;
//!     ld.global.u32 %r2, [%rd3];
//!     add.u32 %r3, %r2, %r2;
//!     st.global.u32 [%rd3], %r3;
//!     ret;
//! }";
//! let (module, heap) = (Module::parse(text)?, Heap::default());
//! let numbers = heap.filled(&[1, 0, 0, 0, 21, 0, 0, 0]);
//! Launch::new(&module, "double")?.threads(2).u64(numbers).run(&heap, Manner::default())?;
//! assert_eq!(heap.read(numbers), [2, 0, 0, 0, 42, 0, 0, 0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it checks
//! A launch fails, with kernel, block, thread and line of the PTX, at an access to global memory that is misaligned or
//! outside of an allocation, and to shared memory outside of the block's; where threads wait for others that never come, at
//! a barrier or in what a warp does together; where a shuffle receives from a lane that is not there; and at an instruction
//! that is not known. Undefined registers, shared memory and thread's own memory are poisoned; so is the destination of an
//! asynchronous copy until it is waited for. Approximations are off by one or two units in the last place where a
//! [`Manner`] says so; results that are no number are the one NaN that the hardware gives.
//!
//! # What it does not
//! See the README of the crate.

mod code;
mod device;
mod heap;
mod launch;
mod machine;
mod nvrtc;
mod parse;

pub use device::{Device, Rewrite};
pub use heap::Heap;
pub use launch::{Launch, LaunchError};
pub use machine::{Fault, Manner, Memory, Range};
pub use nvrtc::{Compiler, NVRTC, REQUEST, answer};
pub use parse::{Module, ParseError};
