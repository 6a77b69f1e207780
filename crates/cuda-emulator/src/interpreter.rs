//! What may take the place of the compiled kernels: a compiler of programs, and an interpreter of what it makes.

use crate::Emulator;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Mutex, OnceLock};

/// A program as NVRTC is given it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// The source's name.
    pub name: String,
    /// Its text.
    pub source: String,
    /// Names and texts of what it may include.
    pub headers: Vec<(String, String)>,
    /// The compiler's options, the architecture among them.
    pub options: Vec<String>,
}

/// What the driver tells of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Threads that a block may have.
    pub max_threads: u32,
    /// Bytes of shared memory that its own arrays take.
    pub static_shared: u32,
    /// Bytes of each parameter.
    pub parameters: Vec<u32>,
}

/// A launch as `cuLaunchKernel` is given it.
#[derive(Clone, Copy, Debug)]
pub struct Launched<'a> {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub dynamic: u32,
    /// The bytes of each parameter.
    pub parameters: &'a [&'a [u8]],
    /// See [`Emulator::set_order`].
    pub order: i32,
}

/// Why a launch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// With kernel, block, thread and place.
    pub message: String,
    /// Whether it was an access to memory.
    pub is_access: bool,
}

/// Compiles programs, and runs kernels of what came of them. Called from all threads of the program.
pub trait Interpreter: Sync {
    /// Compiles a program; gives the number of a module, from 1 on, or the compiler's messages.
    ///
    /// # Errors
    /// The messages, if it does not compile.
    fn compile(&self, program: &Program) -> Result<u64, String>;

    /// What there is to know about a kernel; nothing if the module has none of that name.
    fn describe(&self, module: u64, kernel: &str) -> Option<Described>;

    /// Runs all blocks.
    ///
    /// # Errors
    /// The first thing that went wrong.
    fn run(&self, module: u64, kernel: &str, launch: Launched) -> Result<(), Failure>;
}

/// `ProgramText` of `driver/interpreter.h`.
#[repr(C)]
struct ProgramText {
    name: *const c_char,
    source: *const c_char,
    headers: u32,
    options: u32,
    header_names: *const *const c_char,
    header_texts: *const *const c_char,
    option_texts: *const *const c_char,
}

/// `InterpretedKernel` of `driver/interpreter.h`, and behind it what only this side knows.
#[repr(C)]
struct Kernel {
    name: *const c_char,
    file: *const c_char,
    max_threads: u32,
    static_shared: u32,
    parameters: u32,
    sizes: *const u32,
    module: u64,
    owned: (CString, Vec<u32>),
}

/// `Interpreter` of `driver/interpreter.h`.
#[repr(C)]
pub(crate) struct Table {
    compile: unsafe extern "C" fn(*const ProgramText, *mut c_char, u64) -> u64,
    find: unsafe extern "C" fn(u64, *const c_char) -> *const Kernel,
    run: unsafe extern "C" fn(*const Kernel, *const u32, u32, u32, *const *const c_void, i32, *mut c_char, u64) -> u32,
}

static TABLE: Table = Table { compile, find, run };
static CHOSEN: OnceLock<&'static dyn Interpreter> = OnceLock::new();
/// Addresses of kernels that were asked for; they are never freed, for the driver keeps them.
static KERNELS: Mutex<Option<HashMap<(u64, String), usize>>> = Mutex::new(None);

impl Emulator {
    /// From now on NVRTC gives its programs to this, and launches of their kernels run there. Modules that were loaded
    /// before keep to the compiled kernels.
    ///
    /// # Panics
    /// If the process has another interpreter already.
    pub fn interpret(&self, interpreter: &'static dyn Interpreter) {
        assert!(CHOSEN.set(interpreter).is_ok(), "a process has one interpreter");
        (self.functions().interpret)(&TABLE);
    }

    /// The allocation of device memory with the byte at an address: its first address, its size, and which of its bytes
    /// are forbidden, one bit each (see [`forbid`](Self::forbid)), or null.
    pub fn range(&self, address: u64) -> Option<(u64, u64, *const u8)> {
        let (mut begin, mut bytes, mut forbidden) = (0, 0, std::ptr::null());
        // SAFETY: all three are written to locals.
        let found = unsafe { (self.functions().find_range)(address, &mut begin, &mut bytes, &mut forbidden) };
        found.then_some((begin, bytes, forbidden))
    }
}

fn chosen() -> &'static dyn Interpreter {
    *CHOSEN.get().expect("the driver calls what `interpret` has set")
}

/// # Safety
/// The pointer is to a text that ends in zero.
unsafe fn text(at: *const c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
}

/// # Safety
/// There are `count` pointers to texts that end in zero.
unsafe fn texts(at: *const *const c_char, count: u32) -> Vec<String> {
    // SAFETY: the caller's promise.
    (0..count as usize).map(|i| unsafe { text(*at.add(i)) }).collect()
}

/// # Safety
/// There is room for `room` bytes, at least one.
unsafe fn answer(message: &str, to: *mut c_char, room: u64) {
    let kept = message.len().min(room as usize - 1);
    // SAFETY: `kept` bytes and a zero fit.
    unsafe {
        std::ptr::copy_nonoverlapping(message.as_ptr(), to.cast(), kept);
        *to.add(kept) = 0;
    }
}

unsafe extern "C" fn compile(program: *const ProgramText, log: *mut c_char, room: u64) -> u64 {
    // SAFETY: the driver's NVRTC passes a program whose texts end in zero, with as many as it says.
    let program = unsafe {
        let given = &*program;
        let names = texts(given.header_names, given.headers);
        let headers = names.into_iter().zip(texts(given.header_texts, given.headers)).collect();
        let options = texts(given.option_texts, given.options);
        Program { name: text(given.name), source: text(given.source), headers, options }
    };
    let (module, messages) = match chosen().compile(&program) {
        Ok(module) => (module, String::new()),
        Err(messages) => (0, messages),
    };
    // SAFETY: the room is the driver's.
    unsafe { answer(&messages, log, room) };
    module
}

unsafe extern "C" fn find(module: u64, name: *const c_char) -> *const Kernel {
    // SAFETY: names of kernels end in zero.
    let name = unsafe { text(name) };
    let mut kernels = KERNELS.lock().expect("nothing panics with it");
    let kernels = kernels.get_or_insert_with(HashMap::new);
    if let Some(&known) = kernels.get(&(module, name.clone())) {
        return known as *const Kernel;
    }
    let Some(described) = chosen().describe(module, &name) else { return std::ptr::null() };
    let (own_name, mut sizes) = (CString::new(name.clone()).expect("it came from C"), described.parameters);
    let parameters = sizes.len() as u32;
    sizes.push(0);
    let kernel = Box::leak(Box::new(Kernel {
        name: own_name.as_ptr(),
        file: c"interpreted".as_ptr(),
        max_threads: described.max_threads,
        static_shared: described.static_shared,
        parameters,
        sizes: sizes.as_ptr(),
        module,
        owned: (own_name, sizes),
    }));
    kernels.insert((module, name), std::ptr::from_ref(kernel) as usize);
    kernel
}

unsafe extern "C" fn run(
    kernel: *const Kernel,
    grid: *const u32,
    threads: u32,
    dynamic: u32,
    parameters: *const *const c_void,
    order: i32,
    message: *mut c_char,
    room: u64,
) -> u32 {
    // SAFETY: the kernel is one that `find` gave and that is never freed; the grid has three numbers; the driver has copied
    // as many parameters of these sizes as the kernel has, and keeps them until this returns.
    let (kernel, grid, parameters) = unsafe {
        let kernel = &*kernel;
        let sizes = &kernel.owned.1[..kernel.parameters as usize];
        let one =
            |(i, &size): (usize, &u32)| std::slice::from_raw_parts((*parameters.add(i)).cast::<u8>(), size as usize);
        (kernel, [*grid, *grid.add(1), *grid.add(2)], sizes.iter().enumerate().map(one).collect::<Vec<_>>())
    };
    let name = kernel.owned.0.to_str().expect("made of a text");
    let launched = Launched { grid, threads, dynamic, parameters: &parameters, order };
    let Err(failure) = chosen().run(kernel.module, name, launched) else { return 0 };
    // SAFETY: the room is the driver's.
    unsafe { answer(&failure.message, message, room) };
    if failure.is_access { 2 } else { 1 }
}
