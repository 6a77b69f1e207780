//! RMSNorm and its gradient, row by row.

use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::{madd, vectorized};
use crate::backend::cpu::simd::reduce::sum_of;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::Norm;
use crate::backend::{Accumulate, NormGradArgs};
use crate::memory::Span;

/// Rows of a task.
const BLOCK: usize = 64;
/// Columns of a task that sums over rows.
const SUMMED: usize = 64;

impl Norm for Cpu {
    fn rms_norm(&mut self, x: Span, gain: Span, out: Span, inv_rms: Span, eps: f32) {
        let (isa, mut scratch, mut slices) = self.begin();
        let (x, gain) = (slices.read::<f32>(x), slices.read::<f32>(gain));
        let (out, inv_rms) = (slices.write::<f32>(out), slices.write::<f32>(inv_rms));
        let block = BLOCK * gain.len();
        assert!(x.len() == out.len() && x.len() == inv_rms.len() * gain.len(), "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        let tasks = x.chunks(block).zip(out.chunks_mut(block)).zip(inv_rms.chunks_mut(BLOCK));
        areas.run(tasks, |((x, out), inv_rms), _| norm_rows(isa, x, gain, out, inv_rms, eps));
    }

    /// An element of the gain's gradient is one chain of sums in the order of the rows, which [`Accumulate::Yes`]
    /// continues: the same bits for any number of threads and for any parts of a batch.
    fn rms_norm_grad(&mut self, args: &NormGradArgs) {
        let (isa, mut scratch, mut slices) = self.begin();
        let [x, gain, inv_rms, dout] =
            [args.x, args.gain, args.inv_rms, args.dout].map(|span| slices.read::<f32>(span));
        let [dx, dgain] = [args.dx, args.dgain].map(|span| slices.write::<f32>(span));
        let width = gain.len();
        let len = inv_rms.len() * width;
        assert!(x.len() == len && dout.len() == len && dx.len() == len && dgain.len() == width, "whole rows");
        let block = BLOCK * width;
        let (_, mut areas) = scratch.split(Need::default());
        let tasks = x.chunks(block).zip(dout.chunks(block)).zip(inv_rms.chunks(BLOCK)).zip(dx.chunks_mut(block));
        areas.run(tasks, |(((x, dout), inv_rms), dx), _| grad_rows(isa, x, gain, inv_rms, dout, dx));
        if args.accumulate == Accumulate::No {
            dgain.fill(0.0);
        }
        areas.run(dgain.chunks_mut(SUMMED).enumerate(), |(i, dgain), _| {
            sum_gain(isa, &x[i * SUMMED..], inv_rms, &dout[i * SUMMED..], width, dgain);
        });
    }
}

vectorized! {
    fn norm_rows(x: &[f32], gain: &[f32], out: &mut [f32], inv_rms: &mut [f32], eps: f32) {
        let width = gain.len();
        for ((x, out), inv_rms) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(inv_rms) {
            let mean = sum_of(x, x, madd::<FMA>) / width as f32;
            *inv_rms = 1.0 / (mean + eps).sqrt();
            for ((out, &x), &gain) in out.iter_mut().zip(x).zip(gain) {
                *out = x * *inv_rms * gain;
            }
        }
    }
}

vectorized! {
    fn grad_rows(x: &[f32], gain: &[f32], inv_rms: &[f32], dout: &[f32], dx: &mut [f32]) {
        let width = gain.len();
        let rows = x.chunks_exact(width).zip(dout.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, dout), dx), &inv) in rows.zip(inv_rms) {
            let mean = dot3::<FMA>(x, dout, gain) * inv * inv / width as f32;
            for (((dx, &x), &d), &gain) in dx.iter_mut().zip(x).zip(dout).zip(gain) {
                *dx = madd::<FMA>(madd::<FMA>(-mean, x, d * gain), inv, *dx);
            }
        }
    }
}

vectorized! {
    /// The first elements of the rows of `x` and `dout`, which start `width` apart.
    fn sum_gain(x: &[f32], inv_rms: &[f32], dout: &[f32], width: usize, dgain: &mut [f32]) {
        for ((x, dout), &inv) in x.chunks(width).zip(dout.chunks(width)).zip(inv_rms) {
            for ((sum, &x), &d) in dgain.iter_mut().zip(x).zip(dout) {
                *sum = madd::<FMA>(d * inv, x, *sum);
            }
        }
    }
}

/// Sum of `a b c` in 32 interleaved sums.
#[inline(always)]
fn dot3<const FMA: bool>(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut sum = 0.0;
    for ((a, b), c) in a.chunks(PRODUCTS).zip(b.chunks(PRODUCTS)).zip(c.chunks(PRODUCTS)) {
        let mut products = [0.0; PRODUCTS];
        for ((product, &a), &b) in products.iter_mut().zip(a).zip(b) {
            *product = a * b;
        }
        sum += sum_of(&products[..c.len()], c, madd::<FMA>);
    }
    sum
}

/// Products held at a time by [`dot3`].
const PRODUCTS: usize = 256;
