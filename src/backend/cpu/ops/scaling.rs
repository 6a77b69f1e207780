//! Multiplication and division of all elements by one number.

use super::adam::statistics;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::ops::{Precision, Scaling};
use crate::memory::Span;
use rayon::prelude::*;

/// Elements of a task.
const BLOCK: usize = 16384;

impl Scaling for Cpu {
    fn scale(&mut self, x: Span, factor: f32, precision: Precision) {
        let mut slices = self.arena.borrow_slices();
        let (isa, x) = (self.isa, slices.write::<f32>(x));
        self.pool.install(|| x.par_chunks_mut(BLOCK).for_each(|x| scale(isa, x, factor, precision)));
    }

    fn unit_norm(&mut self, x: Span, eps: f32, precision: Precision) {
        let mut slices = self.arena.borrow_slices();
        let (isa, x) = (self.isa, slices.write::<f32>(x));
        self.pool.install(|| {
            let norm = statistics(isa, x).grad_sq.sqrt() as f32;
            let divisor = precision.round(precision.round(norm) + eps);
            x.par_chunks_mut(BLOCK).for_each(|x| divide(isa, x, divisor, precision));
        });
    }
}

vectorized! {
    pub(super) fn scale(x: &mut [f32], factor: f32, precision: Precision) {
        match precision {
            Precision::F32 => x.iter_mut().for_each(|x| *x *= factor),
            Precision::Bf16 => x.iter_mut().for_each(|x| *x = precision.round(*x * factor)),
        }
    }
}

vectorized! {
    fn divide(x: &mut [f32], divisor: f32, precision: Precision) {
        match precision {
            Precision::F32 => x.iter_mut().for_each(|x| *x /= divisor),
            Precision::Bf16 => x.iter_mut().for_each(|x| *x = precision.round(*x / divisor)),
        }
    }
}
