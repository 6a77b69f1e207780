//! The arguments of a kernel, in the order of its parameters, without allocation.

use super::Gpu;
use crate::memory::Span;
use std::ffi::c_void;
use zerocopy::{Immutable, IntoBytes};

/// Parameters of one kernel at most.
const MAX_PARAMETERS: usize = 40;
/// Bytes of all parameters at most.
const MAX_BYTES: usize = 512;
/// The same of kernels that take a table.
const LONG_BYTES: usize = 2560;
/// Where a parameter may start: the largest alignment a kernel's parameter has.
const ALIGNMENT: usize = 16;

/// Storage aligned for any parameter.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Storage<const BYTES: usize>([u8; BYTES]);

/// Arguments of [`Gpu::launch`]: one call per parameter, in the kernel's order and of the parameter's exact size.
#[derive(Clone, Copy)]
pub struct Args<const BYTES: usize = MAX_BYTES> {
    storage: Storage<BYTES>,
    offsets: [u16; MAX_PARAMETERS],
    count: usize,
    used: usize,
}

impl Args {
    /// No arguments yet.
    pub fn new() -> Self {
        Self::empty()
    }
}

impl Args<LONG_BYTES> {
    /// The same, with room for a table; `new` has less, for what most launches would copy for nothing.
    pub fn long() -> Self {
        Self::empty()
    }
}

impl<const BYTES: usize> Args<BYTES> {
    fn empty() -> Self {
        Self { storage: Storage([0; BYTES]), offsets: [0; MAX_PARAMETERS], count: 0, used: 0 }
    }

    /// A pointer to a span; null for [`Span::NONE`].
    ///
    /// # Panics
    /// If the span is not inside the arena.
    pub fn span(self, gpu: &Gpu, span: Span) -> Self {
        self.address(gpu.address(span))
    }

    /// A pointer.
    pub fn address(self, address: u64) -> Self {
        self.bytes(&address)
    }

    /// A 32-bit unsigned number.
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value)
    }

    /// A float32 number.
    pub fn f32(self, value: f32) -> Self {
        self.bytes(&value)
    }

    /// A 64-bit unsigned number.
    pub fn u64(self, value: u64) -> Self {
        self.bytes(&value)
    }

    /// A 64-bit signed number.
    pub fn i64(self, value: i64) -> Self {
        self.bytes(&value)
    }

    /// A struct by value, with the layout of the kernel's, aligned to 16 bytes at most.
    ///
    /// # Panics
    /// Beyond 40 parameters, and beyond 512 bytes or, with a table, 2560.
    #[inline]
    pub fn bytes<T: IntoBytes + Immutable>(mut self, value: &T) -> Self {
        let bytes = value.as_bytes();
        assert!(align_of::<T>() <= ALIGNMENT, "a parameter aligned to {} bytes", align_of::<T>());
        assert!(self.count < MAX_PARAMETERS, "a kernel has at most {MAX_PARAMETERS} parameters");
        assert!(self.used + bytes.len() <= BYTES, "a kernel's parameters have at most {BYTES} bytes");
        self.storage.0[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.offsets[self.count] = self.used as u16;
        self.count += 1;
        self.used = (self.used + bytes.len()).next_multiple_of(ALIGNMENT);
        self
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value of an argument from its first byte on; what follows belongs to the next.
    #[cfg(test)]
    fn value(&self, index: usize) -> &[u8] {
        &self.storage.0[usize::from(self.offsets[index])..]
    }

    /// What `cuLaunchKernel` takes: pointers to the values, in order. They are valid while `self` is not moved.
    pub(super) fn pointers(&self) -> [*mut c_void; MAX_PARAMETERS] {
        let mut pointers = [std::ptr::null_mut(); MAX_PARAMETERS];
        for (pointer, &offset) in pointers.iter_mut().zip(&self.offsets[..self.count]) {
            *pointer = self.storage.0[usize::from(offset)..].as_ptr().cast_mut().cast();
        }
        pointers
    }
}

impl Default for Args {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_keeps_its_bytes_at_an_address_aligned_for_any_parameter() {
        let args = Args::new().u32(7).address(0x0123_4567_89ab_cdef).f32(-2.5).i64(-3).bytes(&[1u32, 2, 3]);
        assert_eq!(args.len(), 5);
        assert_eq!(args.value(0)[..4], 7u32.to_ne_bytes());
        assert_eq!(args.value(1)[..8], 0x0123_4567_89ab_cdef_u64.to_ne_bytes());
        assert_eq!(args.value(2)[..4], (-2.5f32).to_ne_bytes());
        assert_eq!(args.value(3)[..8], (-3i64).to_ne_bytes());
        assert_eq!(args.value(4)[..12], *[1u32, 2, 3].as_bytes());
        let pointers = args.pointers();
        assert!(pointers[..5].iter().all(|p| p.addr() % ALIGNMENT == 0 && !p.is_null()));
        assert!(pointers[5..].iter().all(|p| p.is_null()));
    }

    #[test]
    #[should_panic(expected = "at most 40 parameters")]
    fn too_many_arguments_are_refused() {
        (0..41).fold(Args::new(), |args, i| if i < 20 { args.u32(i) } else { args.bytes(&[0u8; 0]) });
    }

    #[test]
    #[should_panic(expected = "at most 512 bytes")]
    fn too_many_bytes_are_refused() {
        let _ = Args::new().bytes(&[0u8; 500]).u32(1);
    }
}
