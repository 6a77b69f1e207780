//! Rows brought to other norms.

use crate::backend::Accumulate;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::Magnitude;
use crate::memory::Span;

/// Rows of a task.
const BLOCK: usize = 64;
/// Columns of a task that sums over rows.
const SUMMED: usize = 64;

impl Magnitude for Cpu {
    fn row_norms(&mut self, b: Span, r: Span, squares: Span, factor: f32, norms: Span) {
        let (isa, mut scratch, mut slices) = self.begin();
        let [b, r, squares] = [b, r, squares].map(|span| slices.read::<f32>(span));
        let norms = slices.write::<f32>(norms);
        let width = norms.len();
        assert!(squares.len() == width && b.len() == r.len() && b.len().is_multiple_of(width), "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(norms.chunks_mut(SUMMED).enumerate(), |(i, norms), _| {
            let from = i * SUMMED;
            norms.fill(0.0);
            sum_products(isa, &b[from..], &r[from..], width, norms);
            for (norm, square) in norms.iter_mut().zip(&squares[from..]) {
                *norm = (square + factor * *norm).max(0.0).sqrt();
            }
        });
    }

    fn add_columns(&mut self, x: Span, y: Span, magnitude: Span, norms: Span, factors: [f32; 2]) {
        let (isa, mut scratch, mut slices) = self.begin();
        let [x, magnitude, norms] = [x, magnitude, norms].map(|span| slices.read::<f32>(span));
        let y = slices.write::<f32>(y);
        let width = norms.len();
        assert!(magnitude.len() == width && x.len() == y.len() && x.len().is_multiple_of(width), "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(x.chunks(BLOCK * width).zip(y.chunks_mut(BLOCK * width)), |(x, y), _| {
            add_rows(isa, x, y, magnitude, norms, factors);
        });
    }

    /// Each element is one chain of sums in the order of t.
    fn magnitude_grad(&mut self, x: Span, dy: Span, norms: Span, grad: Span, accumulate: Accumulate) {
        let (isa, mut scratch, mut slices) = self.begin();
        let [x, dy, norms] = [x, dy, norms].map(|span| slices.read::<f32>(span));
        let grad = slices.write::<f32>(grad);
        let width = norms.len();
        assert!(grad.len() == width && x.len() == dy.len() && x.len().is_multiple_of(width), "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        if accumulate == Accumulate::No {
            grad.fill(0.0);
        }
        areas.run(grad.chunks_mut(SUMMED).enumerate(), |(i, grad), _| {
            let from = i * SUMMED;
            sum_quotients(isa, &x[from..], &dy[from..], &norms[from..], width, grad);
        });
    }
}

/// x over a norm, of a row of zeros 0.
#[inline(always)]
fn over(x: f32, norm: f32) -> f32 {
    if norm > 0.0 { x / norm } else { 0.0 }
}

vectorized! {
    /// The first elements of rows that start `width` apart.
    fn sum_products(a: &[f32], b: &[f32], width: usize, sums: &mut [f32]) {
        for (a, b) in a.chunks(width).zip(b.chunks(width)) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum += a * b;
            }
        }
    }
}

vectorized! {
    /// The same, each over a norm.
    fn sum_quotients(a: &[f32], b: &[f32], norms: &[f32], width: usize, sums: &mut [f32]) {
        for (a, b) in a.chunks(width).zip(b.chunks(width)) {
            for (((sum, a), b), norm) in sums.iter_mut().zip(a).zip(b).zip(norms) {
                *sum += over(a * b, *norm);
            }
        }
    }
}

vectorized! {
    fn add_rows(x: &[f32], y: &mut [f32], magnitude: &[f32], norms: &[f32], factors: [f32; 2]) {
        let [by, less] = factors;
        for (x, y) in x.chunks_exact(norms.len()).zip(y.chunks_exact_mut(norms.len())) {
            for (((x, y), m), norm) in x.iter().zip(y).zip(magnitude).zip(norms) {
                *y += (by * over(*m, *norm) + less) * x;
            }
        }
    }
}
