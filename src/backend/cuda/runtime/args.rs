//! The arguments of a kernel, in the order of its parameters, without allocation.

use super::Gpu;
use crate::memory::Span;
use std::ffi::c_void;
use std::ops::Range;
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

    /// The values, each from a multiple of [`ALIGNMENT`] on, and where each begins.
    pub(super) fn values(&self) -> (&[u8], &[u16]) {
        (&self.storage.0[..self.used], &self.offsets[..self.count])
    }
}

/// The arguments of several launches, one after the other.
#[derive(Clone, Default, PartialEq)]
pub(super) struct ArgsList {
    units: Vec<Unit>,
    /// For each argument the unit that it begins with.
    starts: Vec<u32>,
}

/// As many bytes as an argument is aligned to.
#[repr(C, align(16))]
#[derive(Clone, Copy, PartialEq)]
struct Unit([u8; ALIGNMENT]);

impl ArgsList {
    /// With room for as many arguments.
    pub(super) fn with_capacity(arguments: usize) -> Self {
        Self { units: Vec::with_capacity(arguments), starts: Vec::with_capacity(arguments) }
    }

    /// Adds those of a launch; which they are.
    pub(super) fn push<const BYTES: usize>(&mut self, args: &Args<BYTES>) -> Range<usize> {
        let ((values, offsets), begin) = (args.values(), self.starts.len());
        let unit = self.units.len();
        self.units.extend(values.as_chunks::<ALIGNMENT>().0.iter().map(|&bytes| Unit(bytes)));
        self.starts.extend(offsets.iter().map(|&offset| (unit + usize::from(offset) / ALIGNMENT) as u32));
        begin..self.starts.len()
    }

    /// What `cuLaunchKernel` takes: pointers to the values, in order. They are valid while nothing is added.
    pub(super) fn pointers(&self, which: Range<usize>) -> [*mut c_void; MAX_PARAMETERS] {
        let mut pointers = [std::ptr::null_mut(); MAX_PARAMETERS];
        for (pointer, &start) in pointers.iter_mut().zip(&self.starts[which]) {
            // One of no bytes may begin where all end.
            *pointer = self.units[start as usize..].as_ptr().cast_mut().cast();
        }
        pointers
    }

    /// Removes all, and keeps their memory.
    pub(super) fn clear(&mut self) {
        self.units.clear();
        self.starts.clear();
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
        let mut list = ArgsList::default();
        assert_eq!(list.push(&Args::new().bytes(&[9u8; 17]).bytes(&[0u8; 0])), 0..2);
        assert_eq!(list.push(&args), 2..7);
        let value = |index: usize| &list.units[list.starts[2 + index] as usize].0;
        assert_eq!(value(0)[..4], 7u32.to_ne_bytes());
        assert_eq!(value(1)[..8], 0x0123_4567_89ab_cdef_u64.to_ne_bytes());
        assert_eq!(value(2)[..4], (-2.5f32).to_ne_bytes());
        assert_eq!(value(3)[..8], (-3i64).to_ne_bytes());
        assert_eq!(value(4)[..12], *[1u32, 2, 3].as_bytes());
        let pointers = list.pointers(2..7);
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
