//! What the tests of the operations share: repeatable operands, and checks of results.

use super::WeightKind;
use super::ops::reference::{Planes, wide};
use crate::backend::Scheme;
use crate::quant::GroupedShape;
use half::{bf16, f16};
use zerocopy::IntoBytes;

/// A repeatable source of numbers (SplitMix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Between -1 and 1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// A weight with values of about one and garbage in its padding, which nothing may read.
    pub fn planes(&mut self, shape: GroupedShape, kind: WeightKind, scheme: Scheme) -> Planes {
        let data = match kind {
            WeightKind::F32 | WeightKind::Int4Simulated => self.floats(shape.len()).as_bytes().to_vec(),
            WeightKind::Bf16 => {
                let bits = self.floats(shape.len()).into_iter().map(|x| bf16::from_f32(x).to_bits());
                bits.collect::<Vec<_>>().as_bytes().to_vec()
            }
            WeightKind::Int8 => (0..shape.padded_len()).map(|_| self.bits() as u8).collect(),
            WeightKind::Int4 => (0..shape.nibble_bytes()).map(|_| self.bits() as u8).collect(),
        };
        let step = if kind == WeightKind::Int8 { 0.01 } else { 0.15 };
        let mut per_group = |least: f32, spread: f32| -> Vec<u16> {
            let one = |_| f16::from_f32(least + spread * self.float()).to_bits();
            (0..shape.groups()).map(one).collect()
        };
        let packed = matches!(kind, WeightKind::Int8 | WeightKind::Int4);
        let scales = if packed { per_group(step, step / 2.0) } else { Vec::new() };
        let offset = kind == WeightKind::Int4 && scheme == Scheme::Asymmetric;
        let offsets = if offset { per_group(-1.0, 0.5) } else { Vec::new() };
        Planes { shape, kind, scheme, data, scales, offsets }
    }
}

/// Every way to store a weight.
pub(crate) const KINDS: [(WeightKind, Scheme); 7] = [
    (WeightKind::F32, Scheme::Symmetric),
    (WeightKind::Bf16, Scheme::Symmetric),
    (WeightKind::Int8, Scheme::Symmetric),
    (WeightKind::Int4, Scheme::Symmetric),
    (WeightKind::Int4, Scheme::Asymmetric),
    (WeightKind::Int4Simulated, Scheme::Symmetric),
    (WeightKind::Int4Simulated, Scheme::Asymmetric),
];

/// Fails unless each element is as near as `tolerance` says; NaN is near to nothing.
pub(crate) fn close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let near = (f64::from(found) - expected).abs() <= tolerance * (1.0 + expected.abs());
        assert!(near, "{what}: element {i} is {found}, not {expected}");
    }
}

/// Where the segment of each query starts, in `batch` sequences that hold samples of these lengths, each in another
/// order.
pub(crate) fn segment_starts(batch: usize, lengths: &[usize]) -> Vec<u32> {
    let mut first = Vec::new();
    for sequence in 0..batch {
        let mut at = 0;
        for i in 0..lengths.len() {
            let length = lengths[(i + sequence) % lengths.len()];
            first.extend(std::iter::repeat_n(at as u32, length));
            at += length;
        }
    }
    first
}

/// `n` numbers between -1 and 1.
pub(crate) fn wide_floats(random: &mut Random, n: usize) -> Vec<f64> {
    wide(&random.floats(n))
}

/// Checks `grad`, the gradient of `sum(weights f(x))`, by central differences.
pub(crate) fn check_slopes(x: &[f64], grad: &[f64], weights: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) {
    const STEP: f64 = 1e-5;
    let loss = |x: &[f64]| f(x).iter().zip(weights).map(|(x, weight)| x * weight).sum::<f64>();
    for i in 0..x.len() {
        let moved = |by: f64| {
            let mut x = x.to_vec();
            x[i] += by;
            loss(&x)
        };
        let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        // The differences' own error: STEP^2 times a third derivative, and float64's rounding over STEP.
        assert!((slope - grad[i]).abs() < 1e-7, "element {i}: {slope} and {}", grad[i]);
    }
}
