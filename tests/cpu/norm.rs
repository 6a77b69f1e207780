//! RMSNorm and its gradient.

use crate::harness::operands::{Harness, Random};
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference::{self, wide};
use tetrad::backend::{Accumulate, NormGradArgs};
use tetrad::memory::Span;

#[test]
fn norm_and_gradient_at_odd_widths() {
    for (tokens, width) in [(1, 1), (1, 172), (7, 31), (65, 33), (129, 257), (3, 5461), (200, 64)] {
        let (mut random, mut harness) = (Random(width as u64), Harness::default());
        let [x, dout, old] = [(); 3].map(|()| random.floats(tokens * width));
        let gain = random.floats(width);
        let [x_at, dout_at, dx] = [&x, &dout, &old].map(|data| harness.add(&data[..]));
        let (gain_at, out, inv, dgain) =
            (harness.add(&gain[..]), harness.out(tokens * width), harness.out(tokens), harness.out(width));
        let (normed, inv_rms) = reference::rms_norm(&wide(&x), &wide(&gain), 1e-6);
        let (grad, gain_grad) = reference::rms_norm_grad(&wide(&x), &wide(&gain), &inv_rms, &wide(&dout));
        let grad = grad.iter().zip(&old).map(|(grad, &old)| grad + f64::from(old)).collect();
        let expected = [(out, normed), (inv, inv_rms), (dx, grad), (dgain, gain_grad)];
        // Sums of up to 5461 squares, of 200 rows: a few hundred roundings of 6e-8.
        harness.check(&expected, 1e-5, |cpu| {
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
    let (mut random, mut harness) = (Random(5), Harness::default());
    let [x, dout] = [(); 2].map(|()| harness.add(&random.floats(tokens * width)[..]));
    let (gain, inv) = (harness.add(&random.floats(width)[..]), harness.add(&random.floats(tokens)[..]));
    let (dx, dgain, bias) = (harness.out(tokens * width), harness.out(width), harness.out(width));
    for isa in Isa::available() {
        let parts = |cuts: &[usize]| {
            let found = harness.run(isa, 2, &[dx, dgain, bias], |cpu| {
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
    let (mut random, mut harness) = (Random(3), Harness::default());
    let mut x = random.floats(3 * 40);
    x[40 + 39] = f32::NAN;
    let [x, dout, dx] = [x, random.floats(120), vec![0.0; 120]].map(|data| harness.add(&data[..]));
    let (gain, out, inv, dgain) = (harness.add(&[1.0f32; 40]), harness.out(120), harness.out(3), harness.out(40));
    for isa in Isa::available() {
        let found = harness.run(isa, 1, &[out, dx, dgain], |cpu| {
            cpu.rms_norm(x, gain, out, inv, 1e-6);
            cpu.rms_norm_grad(&NormGradArgs { x, gain, inv_rms: inv, dout, dx, dgain, accumulate: Accumulate::No });
        });
        for rows in &found[..2] {
            assert!(rows.iter().enumerate().all(|(i, x)| x.is_nan() == (i / 40 == 1)));
        }
        assert!(found[2].iter().all(|x| x.is_nan()));
    }
}
