//! The emulated libcuda and the functions that it exports for tests.

use libloading::{Library, Symbol};
use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::{Once, OnceLock};

/// The folder with `libcuda.so.1`, `libnvrtc.so.13` and `libcublasLt.so.13`.
pub fn libraries() -> &'static Path {
    Path::new(env!("TETRAD_EMULATOR_LIBRARIES"))
}

/// Makes this process find the emulated libraries before any others: it sets `TETRAD_CUDA_LIBRARIES`, once. To be
/// called before anything that looks for CUDA, first of all in a test.
pub fn install() {
    static ONCE: Once = Once::new();
    // SAFETY: Rust's own accesses to the environment are locked. Foreign code that reads it is the emulator, which
    // tests reach only after this function, and no call of it returns before the first one has.
    ONCE.call_once(|| unsafe { std::env::set_var("TETRAD_CUDA_LIBRARIES", libraries()) });
}

/// The order in which the threads of a block run in launches of the calling thread: 0 ascending, 1 descending, 2 warps
/// in turn, others shuffled by this seed. Without it the variable `TETRAD_EMULATOR_ORDER` says so, else it is 0.
/// Asynchronous copies happen when they are waited for; in order 1 and multiples of 4 from 4 on at once.
pub fn set_order(order: u32) {
    (functions().set_order)(order as i32);
}

/// Whether streams that the calling thread makes from now on do their work as soon as it need not wait for another
/// stream; else they do it when somebody waits for it.
pub fn set_eager(eager: bool) {
    (functions().set_eager)(eager);
}

/// Whether launches of the calling thread check every access to memory (bounds; accesses to shared memory that nothing
/// orders). They do, unless the variable `TETRAD_EMULATOR_CHECKS` is 0. Without checks kernels run about twice as fast.
pub fn set_checked(checked: bool) {
    (functions().set_checked)(checked);
}

/// The address of the device memory that the calling thread allocated last, 0 before.
pub fn latest_allocation() -> u64 {
    (functions().latest_allocation)() as u64
}

/// From now on, kernels that are checked, copies, fills and products fail if they touch any of these bytes of device
/// memory: what lies between the pieces of one large allocation.
///
/// # Panics
/// If the bytes do not lie in one allocation.
pub fn forbid(address: u64, bytes: usize) {
    let fine = (functions().forbid)(address as *mut c_void, bytes as u64);
    assert!(fine, "{bytes} bytes at {address:#x} are not device memory");
}

/// Allocations of device memory that the process ever made.
pub fn allocations() -> u64 {
    (functions().allocations)()
}

/// Bytes of device memory that are allocated now.
pub fn live_bytes() -> u64 {
    (functions().live_bytes)()
}

/// What the driver said beside the last error that it gave to any thread: kernel, block, thread and what is wrong.
pub fn last_failure() -> String {
    let mut text = vec![0u8; 1024];
    // SAFETY: the buffer is as long as is said beside it.
    unsafe { (functions().last_failure)(text.as_mut_ptr().cast(), text.len() as u64) };
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// What `exports.cpp` and `device.cpp` offer.
pub(crate) struct Functions {
    pub launch: LaunchFunction,
    pub set_order: extern "C" fn(i32),
    pub set_eager: extern "C" fn(bool),
    pub set_checked: extern "C" fn(bool),
    pub latest_allocation: extern "C" fn() -> *mut c_void,
    pub forbid: extern "C" fn(*mut c_void, u64) -> bool,
    pub allocations: extern "C" fn() -> u64,
    pub live_bytes: extern "C" fn() -> u64,
    pub allocate: extern "C" fn(u64) -> *mut c_void,
    pub release: unsafe extern "C" fn(*mut c_void),
    pub last_failure: unsafe extern "C" fn(*mut c_char, u64),
}

/// Name, grid, threads, dynamic bytes, parameters, their sizes, their number, order, checks, message, its room.
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

pub(crate) fn functions() -> &'static Functions {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        let path = libraries().join("libcuda.so.1");
        // SAFETY: the library is this crate's own; its constructors only fill the list of kernels. It is never closed,
        // so that the functions below stay valid.
        let library = Box::leak(Box::new(unsafe { Library::new(&path) }.expect("the emulated libcuda loads")));
        // SAFETY: each symbol has the type that `exports.cpp` declares.
        unsafe {
            Functions {
                launch: symbol(library, "tetrad_emulator_launch"),
                set_order: symbol(library, "tetrad_emulator_set_order"),
                set_eager: symbol(library, "tetrad_emulator_set_eager"),
                set_checked: symbol(library, "tetrad_emulator_set_checked"),
                latest_allocation: symbol(library, "tetrad_emulator_latest_allocation"),
                forbid: symbol(library, "tetrad_emulator_forbid"),
                allocations: symbol(library, "tetrad_emulator_allocations"),
                live_bytes: symbol(library, "tetrad_emulator_live_bytes"),
                allocate: symbol(library, "tetrad_emulator_allocate"),
                release: symbol(library, "tetrad_emulator_release"),
                last_failure: symbol(library, "tetrad_emulator_last_failure"),
            }
        }
    })
}

/// # Safety
/// `T` is the type of the function called `name`.
unsafe fn symbol<T: Copy>(library: &'static Library, name: &str) -> T {
    // SAFETY: the caller's promise.
    let symbol: Symbol<T> = unsafe { library.get(name) }.expect("the emulated libcuda exports it");
    *symbol
}
