//! The emulated libcuda and the functions that it exports for tests.

use crate::compile::{BuildError, compile};
use crate::interpreter::Table;
use crate::{Buffer, Element, Launch};
use libloading::{Library, Symbol};
use std::collections::BTreeMap;
use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};

/// Emulated libraries with a program's kernels, loaded into this process until its end.
pub struct Emulator {
    libraries: PathBuf,
    functions: &'static Functions,
}

impl Emulator {
    /// Compiles the kernels (`*.cu`) in `kernels` with the emulator, as far as they are not compiled in `out` already,
    /// and loads the result. `kernels` are also the folders in which headers are found; [`HEADER`](crate::HEADER) must
    /// be among them under the name `gpu.h`. Processes that share `out` wait for each other.
    ///
    /// # Errors
    /// If a folder cannot be read or written, there is no C++ compiler, or it refuses a kernel.
    ///
    /// # Panics
    /// If the libraries that were just made do not load.
    pub fn build(kernels: &[&Path], out: &Path) -> Result<Self, BuildError> {
        let libraries = compile(kernels, out)?;
        let functions = Functions::load(&libraries.join("libcuda.so.1"));
        Ok(Self { libraries, functions: Box::leak(Box::new(functions)) })
    }

    /// The folder with `libcuda.so.1`, `libnvrtc.so.13`, `libcublasLt.so.13` and `libnccl.so.2`, for a program that loads them.
    pub fn libraries(&self) -> &Path {
        &self.libraries
    }

    /// A launch of one block of 32 threads of a kernel, without dynamic shared memory, in the order of threads that
    /// [`set_order`](Self::set_order) chose.
    ///
    /// # Panics
    /// If the name holds a zero byte.
    pub fn launch(&self, kernel: &str) -> Launch {
        Launch::new(self.functions, kernel)
    }

    /// Device memory with a copy of `values`.
    pub fn buffer<T: Element>(&self, values: &[T]) -> Buffer {
        let buffer = self.poisoned::<T>(values.len());
        buffer.write(values);
        buffer
    }

    /// Device memory for `count` values, every byte of them 0xff.
    ///
    /// # Panics
    /// If the host has not that much memory.
    pub fn poisoned<T: Element>(&self, count: usize) -> Buffer {
        Buffer::new(self.functions, count * size_of::<T>())
    }

    /// The order in which the threads of a block run in launches of the calling thread: 0 ascending, 1 descending,
    /// 2 warps in turn, others shuffled by this seed. The default is the variable `CUDA_EMULATOR_ORDER`, else 0.
    /// Asynchronous copies happen when they are waited for; in order 1 and multiples of 4 from 4 on, at once.
    pub fn set_order(&self, order: u32) {
        (self.functions.set_order)(order as i32);
    }

    /// How many devices the driver shows to this process from now on, at most 8; before, as many as the variable
    /// `CUDA_EMULATOR_DEVICES` says, else one.
    pub fn set_devices(&self, count: u32) {
        (self.functions.set_devices)(count as i32);
    }

    /// Whether streams that the calling thread makes from now on do their work as soon as it need not wait for another
    /// stream; else they do it when somebody waits for it.
    pub fn set_eager(&self, eager: bool) {
        (self.functions.set_eager)(eager);
    }

    /// Operations that a graph of the calling thread has at most: what is captured beyond is refused.
    pub fn set_most_captured(&self, most: u64) {
        (self.functions.set_most_captured)(most);
    }

    /// Whether launches of the calling thread check every access to memory (bounds; accesses to shared memory that
    /// nothing orders). They do, unless the variable `CUDA_EMULATOR_CHECKS` is 0. Without checks kernels run about
    /// twice as fast.
    pub fn set_checked(&self, checked: bool) {
        (self.functions.set_checked)(checked);
    }

    /// The address of the device memory that the calling thread allocated last, 0 before.
    pub fn latest_allocation(&self) -> u64 {
        (self.functions.latest_allocation)() as u64
    }

    /// From now on, kernels that are checked, copies, fills and products fail if they touch any of these bytes of
    /// device memory: what lies between the pieces of one large allocation.
    ///
    /// # Panics
    /// If the bytes do not lie in one allocation.
    pub fn forbid(&self, address: u64, bytes: usize) {
        let fine = (self.functions.forbid)(address as *mut c_void, bytes as u64);
        assert!(fine, "{bytes} bytes at {address:#x} are not device memory");
    }

    /// Allocations of device memory that the process ever made.
    pub fn allocations(&self) -> u64 {
        (self.functions.allocations)()
    }

    /// How often the calling thread has waited for a stream, or for an event that had not happened.
    pub fn waits(&self) -> u64 {
        (self.functions.waits)()
    }

    /// What the calling thread has given to streams since it began, and how often: kernels by their names, `product`,
    /// `fill`, and `copy to the device`, `copy to the host` and `copy on the device`.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut text = vec![0u8; 1 << 16];
        // SAFETY: the buffer has the length that is passed with it.
        let bytes = unsafe { (self.functions.counts)(text.as_mut_ptr().cast(), text.len() as u64) };
        assert!(bytes <= text.len() as u64, "{bytes} bytes of counts, room for {}", text.len());
        let text = String::from_utf8_lossy(&text[..bytes as usize - 1]);
        let line = |line: &str| {
            let (name, count) = line.rsplit_once(' ').expect("a name and a number");
            (name.to_owned(), count.parse().expect("a number"))
        };
        text.lines().map(line).collect()
    }

    /// How many kernels the calling thread has asked the driver to load before their first launch.
    pub fn loaded(&self) -> u64 {
        (self.functions.loaded)()
    }

    /// Bytes of device memory that are allocated now.
    pub fn live_bytes(&self) -> u64 {
        (self.functions.live_bytes)()
    }

    pub(crate) fn functions(&self) -> &'static Functions {
        self.functions
    }

    /// The message to the last error that the driver met in this thread: kernel, block, thread and what is wrong.
    pub fn last_failure(&self) -> String {
        let mut text = vec![0u8; 1024];
        // SAFETY: the buffer has the length that is passed with it.
        unsafe { (self.functions.last_failure)(text.as_mut_ptr().cast(), text.len() as u64) };
        let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}

/// What `exports.cpp` and `device.cpp` offer.
pub(crate) struct Functions {
    pub launch: LaunchFunction,
    pub set_order: extern "C" fn(i32),
    pub set_eager: extern "C" fn(bool),
    pub set_most_captured: extern "C" fn(u64),
    pub set_devices: extern "C" fn(i32),
    pub set_checked: extern "C" fn(bool),
    pub latest_allocation: extern "C" fn() -> *mut c_void,
    pub forbid: extern "C" fn(*mut c_void, u64) -> bool,
    pub allocations: extern "C" fn() -> u64,
    pub live_bytes: extern "C" fn() -> u64,
    pub waits: extern "C" fn() -> u64,
    pub counts: unsafe extern "C" fn(*mut c_char, u64) -> u64,
    pub loaded: extern "C" fn() -> u64,
    pub allocate: extern "C" fn(u64) -> *mut c_void,
    pub release: unsafe extern "C" fn(*mut c_void),
    pub last_failure: unsafe extern "C" fn(*mut c_char, u64),
    pub interpret: extern "C" fn(*const Table),
    pub find_range: unsafe extern "C" fn(u64, *mut u64, *mut u64, *mut *const u8) -> bool,
}

/// Name, grid, threads, dynamic bytes, parameters, their sizes, their number, order, checks, message, its capacity.
pub(crate) type LaunchFunction = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    u32,
    u32,
    *mut *mut c_void,
    *const u32,
    u32,
    i32,
    i32,
    *mut c_char,
    u64,
) -> bool;

impl Functions {
    fn load(path: &Path) -> Self {
        // SAFETY: the library is this crate's own; its constructors only fill the list of kernels. It is never closed,
        // so that the functions below stay valid.
        let library = Box::leak(Box::new(unsafe { Library::new(path) }.expect("the emulated libcuda loads")));
        // SAFETY: each symbol has the type that `exports.cpp` declares.
        unsafe {
            Self {
                launch: symbol(library, "cuda_emulator_launch"),
                set_order: symbol(library, "cuda_emulator_set_order"),
                set_eager: symbol(library, "cuda_emulator_set_eager"),
                set_most_captured: symbol(library, "cuda_emulator_set_most_captured"),
                set_devices: symbol(library, "cuda_emulator_set_devices"),
                set_checked: symbol(library, "cuda_emulator_set_checked"),
                latest_allocation: symbol(library, "cuda_emulator_latest_allocation"),
                forbid: symbol(library, "cuda_emulator_forbid"),
                allocations: symbol(library, "cuda_emulator_allocations"),
                live_bytes: symbol(library, "cuda_emulator_live_bytes"),
                waits: symbol(library, "cuda_emulator_waits"),
                counts: symbol(library, "cuda_emulator_counts"),
                loaded: symbol(library, "cuda_emulator_loaded"),
                allocate: symbol(library, "cuda_emulator_allocate"),
                release: symbol(library, "cuda_emulator_release"),
                last_failure: symbol(library, "cuda_emulator_last_failure"),
                interpret: symbol(library, "cuda_emulator_interpret"),
                find_range: symbol(library, "cuda_emulator_find_range"),
            }
        }
    }
}

/// # Safety
/// `T` is the type of the function called `name`.
unsafe fn symbol<T: Copy>(library: &'static Library, name: &str) -> T {
    // SAFETY: the caller's promise.
    let symbol: Symbol<T> = unsafe { library.get(name) }.expect("the emulated libcuda exports it");
    *symbol
}
