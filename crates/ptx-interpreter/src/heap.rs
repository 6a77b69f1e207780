//! Memory for modules that are launched without a driver.

use crate::{Memory, Range};
use std::ptr::null;
use std::sync::Mutex;

/// Allocations of device memory, freed with it.
#[derive(Default)]
pub struct Heap {
    /// Addresses and sizes, in words of sixteen bytes and in bytes.
    allocations: Mutex<Vec<(usize, usize, usize)>>,
}

impl Heap {
    /// An allocation with this content; gives its address, a multiple of 16.
    pub fn filled(&self, bytes: &[u8]) -> u64 {
        let words = bytes.len().div_ceil(16).max(1);
        let at = Box::into_raw(vec![u128::MAX; words].into_boxed_slice()).cast::<u8>();
        // SAFETY: the allocation has at least as many bytes, and nobody else knows it yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        self.allocations.lock().expect("nothing panics with it").push((at as usize, words, bytes.len()));
        at as u64
    }

    /// The content of an allocation.
    ///
    /// # Panics
    /// If none begins there.
    pub fn read(&self, address: u64) -> Vec<u8> {
        let allocations = self.allocations.lock().expect("nothing panics with it");
        let found = allocations.iter().find(|(at, ..)| *at as u64 == address);
        let &(at, _, bytes) = found.expect("the address of an allocation");
        let mut content = vec![0; bytes];
        // SAFETY: so many bytes were allocated and filled there, and no launch is under way: it would borrow this.
        unsafe { std::ptr::copy_nonoverlapping(at as *const u8, content.as_mut_ptr(), bytes) };
        content
    }
}

impl Memory for Heap {
    fn range(&self, address: u64) -> Option<Range> {
        let allocations = self.allocations.lock().expect("nothing panics with it");
        let inside = |&&(at, _, bytes): &&(usize, usize, usize)| address.wrapping_sub(at as u64) < bytes as u64;
        let &(at, _, bytes) = allocations.iter().find(inside)?;
        Some(Range { begin: at as u64, bytes: bytes as u64, forbidden: null() })
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        for &(at, words, _) in self.allocations.get_mut().expect("nothing panics with it").iter() {
            // SAFETY: made by `filled` from a box of so many words, and freed once.
            drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(at as *mut u128, words)) });
        }
    }
}
