//! The kernels that work row by row or element by element, against the float64 reference.

use crate::harness::gpu::{self, orders, set_order};
use crate::harness::operands::{
    self, BF16, Harness, assert_near, bf16_floats, read, read_activations, read_floats, read_rows, words,
};
use half::bf16;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::ops::reference::{self, wide};
use tetrad::backend::prelude::*;
use tetrad::backend::{
    Accumulate, ActivationCode, Backend, Compute, IGNORE, MaxShapes, NormGradArgs, Precision, Rotation, packed_bytes,
};
use tetrad::quant::{RngKey, RngUse};

/// Scratch for all shapes below.
const LARGEST: MaxShapes = MaxShapes {
    tokens: 4200,
    features: 5461,
    inputs: 1024,
    keys: 64,
    parameter: 1 << 20,
    head_dim: 128,
    prefix: 0,
    compute: Compute::F32,
};

#[test]
fn rms_norm_and_its_gradient() {
    for order in orders() {
        set_order(order);
        for (tokens, width) in
            [(1, 1), (1, 172), (7, 31), (65, 40), (9, 257), (3, 5461), (21, 4090), (130, 64), (4099, 8)]
        {
            let [x, dout, old] = [1, 2, 3].map(|seed| bf16_floats(seed, tokens * width));
            let gain = bf16_floats(4, width);
            let mut harness = Harness::default();
            let [x_at, dout_at, dx] = [&x, &dout, &old].map(|values| harness.activations(values, width));
            let gain_at = harness.add(&gain);
            let (out, inv, dgain) = (harness.rows(tokens, width), harness.room(4 * tokens), harness.room(4 * width));
            let mut cuda = gpu::open();
            harness.start(&mut cuda, &LARGEST);
            cuda.rms_norm(x_at, gain_at, out, inv, 1e-6);
            let args = NormGradArgs {
                x: x_at,
                gain: gain_at,
                inv_rms: inv,
                dout: dout_at,
                dx,
                dgain,
                accumulate: Accumulate::No,
            };
            cuda.rms_norm_grad(&args);
            let (normed, inv_rms) = reference::rms_norm(&wide(&x), &wide(&gain), 1e-6);
            let (grad, gain_grad) = reference::rms_norm_grad(&wide(&x), &wide(&gain), &inv_rms, &wide(&dout));
            let dx_expected: Vec<f64> = grad.iter().zip(&old).map(|(grad, &old)| grad + f64::from(old)).collect();
            let what = format!("{tokens} x {width}, order {order}");
            // Results are rounded to bfloat16 once; sums of up to 5,461 products are float32.
            assert_near(&read_activations(&cuda, out, width), &normed, 1e-6, BF16, &format!("out of {what}"));
            assert_near(&read_floats(&cuda, inv), &inv_rms, 0.0, 1e-5, &format!("inv_rms of {what}"));
            let largest = dx_expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            assert_near(
                &read_activations(&cuda, dx, width),
                &dx_expected,
                1e-5 * largest,
                BF16,
                &format!("dx of {what}"),
            );
            // The sum of `tokens` terms whose roundings are relative to the terms, not to their sum.
            let terms: f64 = inv_rms.iter().sum::<f64>().max(1.0);
            assert_near(&read_floats(&cuda, dgain), &gain_grad, 2e-6 * terms, 1e-5, &format!("dgain of {what}"));
            cuda.rms_norm_grad(&NormGradArgs { accumulate: Accumulate::Yes, ..args });
            let twice: Vec<f64> = gain_grad.iter().map(|sum| 2.0 * sum).collect();
            assert_near(&read_floats(&cuda, dgain), &twice, 4e-6 * terms, 1e-5, &format!("dgain of {what}, twice"));
        }
    }
}

#[test]
fn rope_turns_every_sequence_from_its_position() {
    for order in orders() {
        set_order(order);
        for (batch, queries, heads, head_dim, start) in [
            (1, 1, 1, 2, 0),
            (3, 7, 2, 6, 5),
            (2, 65, 3, 32, 1),
            (1, 33, 1, 130, 31),
            (2, 9, 5, 128, 3),
            (1, 5, 3, 24, 0),
        ] {
            for inverse in [false, true] {
                let x = bf16_floats(queries as u64, batch * queries * heads * head_dim);
                let angle = |i: usize| if i.is_multiple_of(2) { (i as f32).cos() } else { (i as f32 - 1.0).sin() };
                let table: Vec<f32> = (0..(start + queries + 2) * head_dim).map(angle).collect();
                let mut harness = Harness::default();
                let (x_at, table_at) = (harness.activations(&x, heads * head_dim), harness.add(&table));
                let rotation = Rotation { heads, head_dim, queries, start, inverse };
                let mut cuda = gpu::open();
                harness.start(&mut cuda, &LARGEST);
                cuda.rope(x_at, table_at, rotation, None);
                let expected = reference::rope(&wide(&x), &wide(&table), rotation, None);
                assert_near(&read_activations(&cuda, x_at, heads * head_dim), &expected, 1e-6, BF16, "rope");
            }
        }
    }
}

#[test]
fn swiglu_and_its_gradient_from_flat_to_steep() {
    for order in orders() {
        set_order(order);
        for (count, scale) in [(1, 1.0), (7, 0.01), (257, 5.0), (4096, 30.0), (5001, 100.0)] {
            let gate: Vec<f32> = bf16_floats(1, count).iter().map(|x| bf16::from_f32(x * scale).to_f32()).collect();
            let [up, dout] = [2, 3].map(|seed| bf16_floats(seed, count));
            let mut harness = Harness::default();
            let [gate_at, up_at, dout_at] = [&gate, &up, &dout].map(|values| harness.activations(values, count));
            let out = harness.rows(1, count);
            let mut cuda = gpu::open();
            harness.start(&mut cuda, &LARGEST);
            cuda.swiglu(gate_at, up_at, out);
            cuda.swiglu_grad(gate_at, up_at, dout_at);
            let (dgate, dup) = reference::swiglu_grad(&wide(&gate), &wide(&up), &wide(&dout));
            // 1 - s loses what s has, times a gate of up to 100.
            assert_near(
                &read_activations(&cuda, out, count),
                &reference::swiglu(&wide(&gate), &wide(&up)),
                1e-5,
                BF16,
                "out",
            );
            assert_near(&read_activations(&cuda, gate_at, count), &dgate, 3e-5, BF16, "gate's gradient");
            assert_near(&read_activations(&cuda, up_at, count), &dup, 1e-5, BF16, "up's gradient");
        }
    }
}

#[test]
fn cross_entropy_and_its_gradient_with_ignored_targets() {
    for order in orders() {
        set_order(order);
        for (count, vocab, scale) in [(1, 1, 1.0), (17, 7, 30.0), (9, 264, 1.0), (3, 5461, 100.0), (4, 4104, 5.0)] {
            let logits: Vec<f32> =
                bf16_floats(vocab as u64, count * vocab).iter().map(|x| bf16::from_f32(x * scale).to_f32()).collect();
            let target = |(t, word): (usize, u32)| if t % 5 == 3 { IGNORE } else { word % vocab as u32 };
            let targets: Vec<u32> = words(5, count).enumerate().map(target).collect();
            let mut harness = Harness::default();
            let [kept, replaced] = [(); 2].map(|()| harness.activations(&logits, vocab));
            let (targets_at, first, second) = (harness.add(&targets), harness.room(4 * count), harness.room(4 * count));
            let mut cuda = gpu::open();
            harness.start(&mut cuda, &LARGEST);
            cuda.cross_entropy(kept, targets_at, first, vocab, None);
            cuda.cross_entropy(replaced, targets_at, second, vocab, Some(0.25));
            let (losses, grad) = reference::cross_entropy(&wide(&logits), &targets, vocab);
            let grad: Vec<f64> = grad.into_iter().map(|x| x * 0.25).collect();
            let what = format!("{count} x {vocab}, order {order}");
            // A base-2 exponential of differences up to 288, each rounded to float32: 2e-5 of the sum.
            assert_near(&read_floats(&cuda, first), &losses, 3e-5, 1e-5, &format!("losses of {what}"));
            assert_near(&read_floats(&cuda, second), &losses, 3e-5, 1e-5, &format!("losses with gradient of {what}"));
            assert!(read_activations(&cuda, kept, vocab) == wide(&logits), "logits change only with a gradient");
            assert_near(
                &read_activations(&cuda, replaced, vocab),
                &grad,
                1e-6,
                BF16 + 5e-5,
                &format!("gradient of {what}"),
            );
        }
    }
}

#[test]
fn a_loss_of_what_is_not_a_number_is_not_a_number() {
    let mut logits = vec![0.5f32; 5 * 40];
    (logits[3], logits[40 + 39], logits[80]) = (f32::NAN, f32::INFINITY, f32::NAN);
    let mut harness = Harness::default();
    let (at, targets, losses) =
        (harness.activations(&logits, 40), harness.add(&[0u32, 1, IGNORE, 2, 40]), harness.room(20));
    let mut cuda = gpu::open();
    harness.start(&mut cuda, &LARGEST);
    cuda.cross_entropy(at, targets, losses, 40, Some(1.0));
    let (losses, grad) = (read_floats(&cuda, losses), read_activations(&cuda, at, 40));
    assert_eq!([0, 1, 2, 3, 4].map(|t| losses[t].is_finite()), [false, false, true, true, false]);
    assert!(grad[..40].iter().all(|x| x.is_nan()) && grad[80..120] == [0.0; 40]);
}

#[test]
fn activations_are_quantized_to_the_same_bits_as_the_reference() {
    let shapes = [
        (1, 1, 1),
        (1, 2, 2),
        (3, 1, 3),
        (1, 5, 31),
        (3, 1, 255),
        (2, 1, 256),
        (3, 3, 257),
        (2, 10, 344),
        (1, 2, 5461),
    ];
    for order in orders() {
        set_order(order);
        for (sequences, sequence, features) in shapes {
            // Sixteenths: plenty of equal magnitudes and of exact halves.
            let x = bf16_floats(features as u64, sequences * sequence * features);
            let x: Vec<f32> = x.iter().map(|x| (x * 16.0).round() / 16.0).collect();
            for code in ActivationCode::ALL {
                let mut harness = Harness::default();
                let at = harness.activations(&x, features);
                let mut cuda = gpu::open();
                harness.start(&mut cuda, &LARGEST);
                cuda.quantize_activations(at, features, sequence, code);
                let expected = reference::quantize_activations(&x, features, sequence, code, Precision::Bf16);
                let what = format!("{sequences} x {sequence} x {features}, {code:?}, order {order}");
                assert!(read_rows(&cuda, at, features) == operands::narrow(&expected), "{what}");
            }
        }
    }
}

#[test]
fn quantizing_keeps_what_is_not_a_number_and_spoils_no_neighbour() {
    let mut x = vec![0.5f32; 300];
    (x[0], x[299]) = (f32::NAN, f32::NAN);
    for code in ActivationCode::ALL {
        let mut harness = Harness::default();
        let at = harness.activations(&x, 300);
        let mut cuda = gpu::open();
        harness.start(&mut cuda, &LARGEST);
        cuda.quantize_activations(at, 300, 1, code);
        let found = read_activations(&cuda, at, 300);
        assert!(found.iter().enumerate().all(|(i, x)| x.is_nan() == (i == 0 || i == 299)));
    }
}

#[test]
fn packed_rows_are_those_of_the_cpu() {
    let key = RngKey { seed: 1 << 40 | 7, step: 9, tensor: 3, usage: RngUse::ActivationPack };
    for order in orders() {
        set_order(order);
        for (rows, features, first) in [(1, 1, 0), (3, 31, 5), (9, 64, 0), (30, 72, 9), (17, 257, 1 << 20)] {
            // What a bfloat16 holds, so that both backends pack the same numbers.
            let x: Vec<f32> = bf16_floats(5, rows * features).iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
            let (codes, scales) = packed_bytes(rows, features);
            let packed = |backend: &mut dyn Backend, harness: &Harness, x_at, [codes, scales, out]: [_; 3]| {
                harness.start(backend, &LARGEST);
                backend.pack_rows(x_at, codes, scales, features, first, &key);
                backend.unpack_rows(codes, scales, out, features);
                [codes, scales].map(|plane| read::<u8>(backend, plane))
            };
            let (mut wide_harness, mut harness) = (Harness::default(), Harness::default());
            let x_at = wide_harness.add(&x);
            let wide_spans = [codes, scales, 4 * rows * features].map(|bytes| wide_harness.room(bytes));
            let x_narrow = harness.activations(&x, features);
            let out = harness.rows(rows, features);
            let spans = [harness.room(codes), harness.room(scales), out];
            let (mut cpu, mut cuda) = (Cpu::new(), gpu::open());
            let expected = packed(&mut cpu, &wide_harness, x_at, wide_spans);
            let found = packed(&mut cuda, &harness, x_narrow, spans);
            assert!(found == expected, "{rows} x {features}, order {order}");
            let values: Vec<f64> = read_floats(&cpu, wide_spans[2]);
            let what = format!("{rows} x {features} unpacked, order {order}");
            assert_near(&read_activations(&cuda, out, features), &values, 0.0, BF16, &what);
        }
    }
}
