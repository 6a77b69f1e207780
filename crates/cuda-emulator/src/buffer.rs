//! Emulated device memory for tests.

use crate::emulator::Functions;
use std::ffi::c_void;

/// Plain values without padding or invalid bit patterns.
///
/// # Safety
/// Every pattern of bits is a value of the type, and it has no padding.
pub unsafe trait Element: Copy {}

macro_rules! elements {
    ($($type:ty)*) => {
        $(
            // SAFETY: a number has no padding, and every pattern of bits is one.
            unsafe impl Element for $type {}
        )*
    };
}
elements!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

/// An allocation of device memory, freed when it is dropped. Made by [`Emulator::buffer`](crate::Emulator::buffer).
///
/// If its size is a multiple of 256 bytes, an access one byte past its end faults in a kernel; otherwise up to 255
/// poisoned bytes follow it.
pub struct Buffer {
    functions: &'static Functions,
    address: *mut c_void,
    bytes: usize,
}

// SAFETY: the memory is owned, and accesses of kernels are those of the launch that borrows it.
unsafe impl Send for Buffer {}

impl Buffer {
    /// `bytes` bytes of 0xff.
    pub(crate) fn new(functions: &'static Functions, bytes: usize) -> Self {
        let address = (functions.allocate)(bytes as u64);
        assert!(!address.is_null(), "no host memory for {bytes} bytes of device memory");
        Self { functions, address, bytes }
    }

    /// Replaces the content.
    ///
    /// # Panics
    /// If there are not as many bytes as the buffer has.
    pub fn write<T: Element>(&self, values: &[T]) {
        assert_eq!(size_of_val(values), self.bytes, "bytes written to a buffer and its size");
        // SAFETY: both have `bytes` bytes; an allocation of the emulator overlaps no slice of Rust's.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast(), self.address.cast::<u8>(), self.bytes) }
    }

    /// The content.
    ///
    /// # Panics
    /// If the size is not a multiple of the type's.
    pub fn read<T: Element>(&self) -> Vec<T> {
        assert_eq!(self.bytes % size_of::<T>(), 0, "bytes of a buffer and of the type it is read as");
        let count = self.bytes / size_of::<T>();
        let mut values = Vec::<T>::with_capacity(count);
        // SAFETY: `bytes` bytes are there to read and to write, and any bits make values of `T`.
        unsafe {
            std::ptr::copy_nonoverlapping(self.address.cast::<u8>(), values.as_mut_ptr().cast(), self.bytes);
            values.set_len(count);
        }
        values
    }

    /// The device address.
    pub fn address(&self) -> u64 {
        self.address as u64
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the address came from `allocate` and is released once.
        unsafe { (self.functions.release)(self.address) }
    }
}
