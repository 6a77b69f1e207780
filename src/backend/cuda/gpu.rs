//! One GPU: its context, its one allocation, its stream and its kernels.

use super::{Args, Product};
use crate::error::BackendError;
use crate::memory::Span;

/// A device with everything loaded. All operations go to one stream in the order they are given; failures are
/// remembered (the first one wins) and reported by [`Gpu::status`]. After a failure operations do nothing and
/// downloads give zeros.
pub struct Gpu {
    /// Of the arena, as large as was promised; free for the operation at hand.
    pub scratch: Span,
}

#[allow(unused_variables, missing_docs)]
impl Gpu {
    pub fn open(ordinal: u32) -> Result<Self, BackendError> {
        unreachable!()
    }
    pub fn allocate(&mut self, bytes: usize, scratch: Span) -> Result<(), BackendError> {
        unreachable!()
    }
    pub fn address(&self, span: Span) -> u64 {
        unreachable!()
    }
    pub fn multiprocessors(&self) -> u32 {
        unreachable!()
    }
    pub fn launch(&mut self, kernel: &'static str, grid: [u32; 3], threads: u32, shared_bytes: usize, args: &Args) {
        unreachable!()
    }
    pub fn zero(&mut self, span: Span) {
        unreachable!()
    }
    pub fn copy(&mut self, from: Span, to: Span) {
        unreachable!()
    }
    pub fn upload(&mut self, bytes: &[u8], to: Span) {
        unreachable!()
    }
    pub fn download(&self, from: Span, bytes: &mut [u8]) {
        unreachable!()
    }
    pub fn multiply(&mut self, product: &Product) {
        unreachable!()
    }
    pub fn status(&self) -> Result<(), BackendError> {
        unreachable!()
    }
}
