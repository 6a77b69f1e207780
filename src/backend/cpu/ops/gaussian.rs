//! Normally distributed numbers.

use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::ops::Gaussian;
use crate::memory::Span;
use crate::quant::RngKey;
use rayon::prelude::*;

/// Numbers that a thread makes at a time.
const PIECE: usize = 4096;

impl Gaussian for Cpu {
    fn gaussian(&mut self, out: Span, key: &RngKey, deviation: f32) {
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let pieces = slices.write::<f32>(out).par_chunks_mut(PIECE).enumerate();
        self.pool.install(|| {
            pieces.for_each(|(i, out)| fill(isa, (i * PIECE) as u64, out, key, deviation));
        });
    }
}

vectorized! {
    fn fill(first: u64, out: &mut [f32], key: &RngKey, deviation: f32) {
        key.gaussian(first, out);
        out.iter_mut().for_each(|x| *x *= deviation);
    }
}
