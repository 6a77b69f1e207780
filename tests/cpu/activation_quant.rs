//! Four-bit activations with outliers.

use crate::harness::operands::{Harness, Random};
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference;
use tetrad::backend::{ActivationCode, Precision};

/// Sequences, rows of each, columns: groups of which some are short and some cross rows.
const SHAPES: [(usize, usize, usize); 10] = [
    (1, 1, 1),
    (2, 1, 2),
    (1, 3, 3),
    (1, 5, 31),
    (3, 1, 255),
    (1, 2, 256),
    (3, 3, 257),
    (4, 10, 344),
    (1, 2, 5461),
    (2, 200, 96),
];

#[test]
fn same_values_as_the_reference_to_the_last_bit() {
    for (sequences, sequence, features) in SHAPES {
        for code in ActivationCode::ALL {
            let (mut random, mut harness) = (Random(features as u64), Harness::default());
            // Sixteenths: plenty of equal magnitudes and of exact halves.
            let x = random.floats(sequences * sequence * features);
            let x: Vec<f32> = x.iter().map(|x| (x * 16.0).round() / 16.0).collect();
            let at = harness.add(&x[..]);
            let expected = reference::quantize_activations(&x, features, sequence, code, Precision::F32);
            let quantize = |cpu: &mut dyn tetrad::backend::Backend| {
                cpu.quantize_activations(at, features, sequence, code);
            };
            harness.check(&[(at, reference::wide(&expected))], 0.0, quantize);
        }
    }
}

#[test]
fn outliers_stay_exact_and_ties_go_to_the_first() {
    let mut x = vec![0.75f32; 256];
    (x[7], x[100], x[200], x[255]) = (1.0, -3.7, 3.7, -0.8);
    let mut harness = Harness::default();
    let at = harness.add(&x[..]);
    for isa in Isa::available() {
        let quantized = |code| harness.run(isa, 1, &[at], |cpu| cpu.quantize_activations(at, 256, 1, code)).remove(0);
        // The others have absmax 1: -0.8 is nearest to -6/7 and -3/4, 0.75 to 5/7 and 3/4.
        for (code, low, high) in [
            (ActivationCode::Int4Rows, -6.0 * (1.0 / 7.0), 5.0 * (1.0 / 7.0)),
            (ActivationCode::Int4, -6.0 / 7.0, 5.0 / 7.0),
            (ActivationCode::Fp4, -0.75, 0.75),
        ] {
            let found = quantized(code);
            assert_eq!((found[100], found[200], found[7]), (-3.7, 3.7, 1.0));
            assert_eq!((found[255], found[0]), (low, high), "{code:?}");
        }
    }
}

#[test]
fn nan_stays_nan_and_spoils_no_neighbour() {
    let mut x = vec![0.5f32; 300];
    (x[0], x[299]) = (f32::NAN, f32::NAN);
    let mut harness = Harness::default();
    let at = harness.add(&x[..]);
    for (isa, code) in Isa::available().flat_map(|isa| ActivationCode::ALL.map(|code| (isa, code))) {
        let found = harness.run(isa, 1, &[at], |cpu| cpu.quantize_activations(at, 300, 1, code)).remove(0);
        assert!(found.iter().enumerate().all(|(i, x)| x.is_nan() == (i == 0 || i == 299)));
    }
}
