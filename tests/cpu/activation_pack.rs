//! Rows packed in four bits, and back.

use crate::harness::operands::{Harness, Random};
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference::packed_values;
use tetrad::backend::{PACK_GROUP, packed_bytes};
use tetrad::quant::{RngKey, RngUse};

const KEY: RngKey = RngKey { seed: 7, step: 3, tensor: 2, usage: RngUse::ActivationPack };

/// Each element by the formula of the trait, from the number that is its own.
#[test]
fn every_element_is_its_scale_times_a_whole_number() {
    for (rows, features, first) in [(1, 1, 0), (3, 31, 5), (2, 64, 0), (70, 65, 9), (40, 257, 3)] {
        let (mut random, mut harness) = (Random(features as u64), Harness::default());
        let x = random.floats(rows * features);
        let expected = packed_values(&x, features, first, &KEY);
        let (codes, scales) = packed_bytes(rows, features);
        let x_at = harness.add(&x[..]);
        let (codes, scales) = (harness.add(&vec![0u8; codes][..]), harness.add(&vec![0u8; scales][..]));
        let out = harness.out(rows * features);
        harness.check(&[(out, expected)], 0.0, |cpu| {
            cpu.pack_rows(x_at, codes, scales, features, first, &KEY);
            cpu.unpack_rows(codes, scales, out, features);
        });
    }
}

/// The mean of many roundings is the number itself.
#[test]
fn packing_is_right_on_average() {
    let (mut random, mut harness) = (Random(1), Harness::default());
    let x = random.floats(PACK_GROUP);
    let (x_at, codes, scales) = (harness.add(&x[..]), harness.add(&[0u8; 32][..]), harness.add(&[0u8; 2][..]));
    let out = harness.out(PACK_GROUP);
    let mut sums = vec![0.0; PACK_GROUP];
    let runs = 400;
    for step in 0..runs {
        let found = harness.run(Isa::best(), 1, &[out], |cpu| {
            cpu.pack_rows(x_at, codes, scales, PACK_GROUP, 0, &RngKey { step, ..KEY });
            cpu.unpack_rows(codes, scales, out, PACK_GROUP);
        });
        found[0].iter().zip(&mut sums).for_each(|(x, sum)| *sum += f64::from(*x) / f64::from(runs));
    }
    // A rounding has a standard deviation of at most half a scale, here 1/14; five of the mean's.
    let bound = 5.0 * 0.5 / 7.0 / f64::from(runs).sqrt();
    for (x, mean) in x.iter().zip(sums) {
        assert!((f64::from(*x) - mean).abs() < bound, "{x} has a mean of {mean}");
    }
}
