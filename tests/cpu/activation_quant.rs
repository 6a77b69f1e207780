//! Four-bit activations with outliers.

use crate::harness::operands::{Harness, Random};
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference;

#[test]
fn same_values_as_the_reference_to_the_last_bit() {
    for (tokens, features) in [(1, 1), (2, 2), (3, 3), (5, 31), (3, 255), (2, 256), (9, 257), (40, 344), (2, 5461)] {
        let (mut random, mut harness) = (Random(features as u64), Harness::default());
        // Sixteenths: plenty of equal magnitudes and of exact halves.
        let x: Vec<f32> = random.floats(tokens * features).iter().map(|x| (x * 16.0).round() / 16.0).collect();
        let at = harness.add(&x[..]);
        let expected = reference::quantize_activations(&x, features);
        harness.check(&[(at, reference::wide(&expected))], 0.0, |cpu| cpu.quantize_activations(at, features));
    }
}

#[test]
fn outliers_stay_exact_and_ties_go_to_the_first() {
    let mut x = vec![0.75f32; 256];
    (x[7], x[100], x[200], x[255]) = (1.0, -3.7, 3.7, -0.8);
    let mut harness = Harness::default();
    let at = harness.add(&x[..]);
    for isa in Isa::available() {
        let found = harness.run(isa, 1, &[at], |cpu| cpu.quantize_activations(at, 256)).remove(0);
        assert_eq!((found[100], found[200], found[7]), (-3.7, 3.7, 1.0));
        // The others have absmax 1: -0.8 is nearest to -6/7, 0.75 to 5/7.
        assert_eq!((found[255], found[0]), (-6.0 * (1.0 / 7.0), 5.0 * (1.0 / 7.0)));
    }
}

#[test]
fn nan_stays_nan_and_spoils_no_neighbour() {
    let mut x = vec![0.5f32; 300];
    (x[0], x[299]) = (f32::NAN, f32::NAN);
    let mut harness = Harness::default();
    let at = harness.add(&x[..]);
    for isa in Isa::available() {
        let found = harness.run(isa, 1, &[at], |cpu| cpu.quantize_activations(at, 300)).remove(0);
        assert!(found.iter().enumerate().all(|(i, x)| x.is_nan() == (i == 0 || i == 299)));
    }
}
