//! A launch of one kernel.

use crate::Buffer;
use crate::emulator::Functions;
use std::ffi::{CString, c_void};

/// A launch of a kernel by name, with parameters in the kernel's order. Made by
/// [`Emulator::launch`](crate::Emulator::launch).
pub struct Launch {
    functions: &'static Functions,
    name: CString,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    order: i32,
    checked: i32,
    parameters: Vec<Vec<u128>>,
    sizes: Vec<u32>,
}

impl Launch {
    pub(crate) fn new(functions: &'static Functions, kernel: &str) -> Self {
        let name = CString::new(kernel).expect("a kernel's name has no zero byte");
        let (parameters, sizes) = (Vec::new(), Vec::new());
        Self { functions, name, grid: [1; 3], threads: 32, shared: 0, order: -1, checked: -1, parameters, sizes }
    }

    /// Blocks.
    pub fn grid(mut self, grid: [u32; 3]) -> Self {
        self.grid = grid;
        self
    }

    /// Threads of a block.
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = threads;
        self
    }

    /// Bytes of dynamic shared memory.
    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    /// The order of threads, see [`crate::Emulator::set_order`].
    pub fn order(mut self, order: u32) -> Self {
        self.order = order as i32;
        self
    }

    /// Whether accesses are checked, see [`crate::Emulator::set_checked`].
    pub fn checked(mut self, checked: bool) -> Self {
        self.checked = i32::from(checked);
        self
    }

    /// A pointer to the beginning of a buffer.
    pub fn buffer(self, buffer: &Buffer) -> Self {
        self.bytes(&buffer.address().to_ne_bytes())
    }

    /// A device address, 0 for a null pointer.
    pub fn address(self, address: u64) -> Self {
        self.bytes(&address.to_ne_bytes())
    }

    /// A parameter of type `u32`.
    pub fn u32(self, x: u32) -> Self {
        self.bytes(&x.to_ne_bytes())
    }

    /// A parameter of type `i32`.
    pub fn i32(self, x: i32) -> Self {
        self.bytes(&x.to_ne_bytes())
    }

    /// A parameter of type `u64`.
    pub fn u64(self, x: u64) -> Self {
        self.bytes(&x.to_ne_bytes())
    }

    /// A parameter of type `float`.
    pub fn f32(self, x: f32) -> Self {
        self.bytes(&x.to_ne_bytes())
    }

    /// A parameter of any type (a struct), as it lies in memory.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        // Words of sixteen bytes give every parameter the alignment that it may need.
        let mut words = vec![0u128; bytes.len().div_ceil(16)];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks(16)) {
            let mut padded = [0; 16];
            padded[..chunk.len()].copy_from_slice(chunk);
            *word = u128::from_ne_bytes(padded);
        }
        self.sizes.push(bytes.len() as u32);
        self.parameters.push(words);
        self
    }

    /// Runs all blocks and waits.
    ///
    /// # Errors
    /// The emulator's report: kernel, block, thread and the reason.
    pub fn run(mut self) -> Result<(), String> {
        let mut parameters: Vec<*mut c_void> = self.parameters.iter_mut().map(|p| p.as_mut_ptr().cast()).collect();
        let mut message = vec![0u8; 1024];
        // SAFETY: the arrays have the lengths that are passed with them, and live until the function returns, when
        // the launch has ended. Sizes of parameters are checked there; addresses that are wrong are reported.
        let fine = unsafe {
            (self.functions.launch)(
                self.name.as_ptr(),
                self.grid.as_ptr(),
                self.threads,
                self.shared,
                parameters.as_mut_ptr(),
                self.sizes.as_ptr(),
                self.sizes.len() as u32,
                self.order,
                self.checked,
                message.as_mut_ptr().cast(),
                message.len() as u64,
            )
        };
        let text = message.split(|&byte| byte == 0).next().unwrap_or_default();
        if fine { Ok(()) } else { Err(String::from_utf8_lossy(text).into_owned()) }
    }
}
