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
        let (isa, mut scratch, mut claims) = self.begin();
        let (x, gain) = (claims.read::<f32>(x), claims.read::<f32>(gain));
        let (out, inv_rms) = (claims.write::<f32>(out), claims.write::<f32>(inv_rms));
        let block = BLOCK * gain.len();
        assert!(x.len() == out.len() && x.len() == inv_rms.len() * gain.len(), "whole rows");
        let (_, mut areas) = scratch.split(Need::default());
        let tasks = x.chunks(block).zip(out.chunks_mut(block)).zip(inv_rms.chunks_mut(BLOCK));
        areas.run(tasks, |((x, out), inv_rms), _| norm_rows(isa, x, gain, out, inv_rms, eps));
    }

    /// An element of the gain's gradient is one chain of sums in the order of the rows, which [`Accumulate::Yes`]
    /// continues: the same bits for any number of threads and for any parts of a batch.
    fn rms_norm_grad(&mut self, args: &NormGradArgs) {
        let (isa, mut scratch, mut claims) = self.begin();
        let [x, gain, inv_rms, dout] =
            [args.x, args.gain, args.inv_rms, args.dout].map(|span| claims.read::<f32>(span));
        let [dx, dgain] = [args.dx, args.dgain].map(|span| claims.write::<f32>(span));
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

#[cfg(test)]
mod tests {
    use crate::backend::cpu::Isa;
    use crate::backend::cpu::testing::Rig;
    use crate::backend::ops::reference::{self, wide};
    use crate::backend::testing::Random;
    use crate::backend::{Accumulate, NormGradArgs};
    use crate::memory::Span;

    #[test]
    fn norm_and_gradient_at_odd_widths() {
        for (tokens, width) in [(1, 1), (1, 172), (7, 31), (65, 33), (129, 257), (3, 5461), (200, 64)] {
            let (mut random, mut rig) = (Random(width as u64), Rig::default());
            let [x, dout, old] = [(); 3].map(|()| random.floats(tokens * width));
            let gain = random.floats(width);
            let [x_at, dout_at, dx] = [&x, &dout, &old].map(|data| rig.add(&data[..]));
            let (gain_at, out, inv, dgain) =
                (rig.add(&gain[..]), rig.out(tokens * width), rig.out(tokens), rig.out(width));
            let (normed, inv_rms) = reference::rms_norm(&wide(&x), &wide(&gain), 1e-6);
            let (grad, gain_grad) = reference::rms_norm_grad(&wide(&x), &wide(&gain), &inv_rms, &wide(&dout));
            let grad = grad.iter().zip(&old).map(|(grad, &old)| grad + f64::from(old)).collect();
            let expected = [(out, normed), (inv, inv_rms), (dx, grad), (dgain, gain_grad)];
            // Sums of up to 5461 squares, of 200 rows: a few hundred roundings of 6e-8.
            rig.check(&expected, 1e-5, |cpu| {
                cpu.rms_norm(x_at, gain_at, out, inv, 1e-6);
                cpu.rms_norm_grad(&NormGradArgs {
                    x: x_at,
                    gain: gain_at,
                    inv_rms: inv,
                    dout: dout_at,
                    dx,
                    dgain,
                    accumulate: Accumulate::No,
                });
            });
        }
    }

    #[test]
    fn parts_of_a_batch_give_the_bits_of_the_whole() {
        let (tokens, width) = (150, 101);
        let (mut random, mut rig) = (Random(5), Rig::default());
        let [x, dout] = [(); 2].map(|()| rig.add(&random.floats(tokens * width)[..]));
        let (gain, inv) = (rig.add(&random.floats(width)[..]), rig.add(&random.floats(tokens)[..]));
        let (dx, dgain, bias) = (rig.out(tokens * width), rig.out(width), rig.out(width));
        for isa in Isa::available() {
            let parts = |cuts: &[usize]| {
                let found = rig.run(isa, 2, &[dx, dgain, bias], |cpu| {
                    let mut from = 0;
                    for &to in cuts {
                        let rows = |span: Span| span.part(4 * from * width, 4 * (to - from) * width);
                        let inv = inv.part(4 * from, 4 * (to - from));
                        let accumulate = if from == 0 { Accumulate::No } else { Accumulate::Yes };
                        cpu.rms_norm_grad(&NormGradArgs {
                            x: rows(x),
                            gain,
                            inv_rms: inv,
                            dout: rows(dout),
                            dx: rows(dx),
                            dgain,
                            accumulate,
                        });
                        cpu.bias_grad(rows(dout), bias, width, accumulate);
                        from = to;
                    }
                });
                found.into_iter().flatten().map(f32::to_bits).collect::<Vec<_>>()
            };
            let whole = parts(&[tokens]);
            assert!(whole == parts(&[1, 2, 150]) && whole == parts(&[64, 70, 149, 150]), "{isa:?}");
        }
    }

    #[test]
    fn nan_reaches_its_row_and_the_gain() {
        let (mut random, mut rig) = (Random(3), Rig::default());
        let mut x = random.floats(3 * 40);
        x[40 + 39] = f32::NAN;
        let [x, dout, dx] = [x, random.floats(120), vec![0.0; 120]].map(|data| rig.add(&data[..]));
        let (gain, out, inv, dgain) = (rig.add(&[1.0f32; 40]), rig.out(120), rig.out(3), rig.out(40));
        for isa in Isa::available() {
            let found = rig.run(isa, 1, &[out, dx, dgain], |cpu| {
                cpu.rms_norm(x, gain, out, inv, 1e-6);
                cpu.rms_norm_grad(&NormGradArgs { x, gain, inv_rms: inv, dout, dx, dgain, accumulate: Accumulate::No });
            });
            for rows in &found[..2] {
                assert!(rows.iter().enumerate().all(|(i, x)| x.is_nan() == (i / 40 == 1)));
            }
            assert!(found[2].iter().all(|x| x.is_nan()));
        }
    }
}
