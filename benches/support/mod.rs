//! What the benchmarks share: an arena with operands, random contents, the check that comes before every timing.

// Each benchmark is a program of its own and uses a part of this.
#![allow(dead_code)]

use half::f16;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::ops::reference::Planes;
use tetrad::backend::prelude::*;
use tetrad::backend::{DeviceInfo, MaxShapes, Scheme, Weight, WeightKind};
use tetrad::memory::{Category, Lifetime, Plan, Span};
use tetrad::quant::GroupedShape;
use zerocopy::{Immutable, IntoBytes};

/// Tokens of every benchmark: the quick-start's batch.
pub const TOKENS: usize = 2048;

/// Repeatable numbers between -1 and 1.
pub fn floats(seed: u64, n: usize) -> Vec<f32> {
    bits(seed, n).into_iter().map(|bits| (bits >> 8) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

fn bits(mut state: u64, n: usize) -> Vec<u32> {
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 32) as u32
    };
    (0..n).map(|_| next()).collect()
}

/// A symmetric INT4 weight with values of about one.
pub fn int4(rows: usize, cols: usize, group: usize) -> Planes {
    let shape = GroupedShape::new(rows, cols, group);
    Planes {
        shape,
        kind: WeightKind::Int4,
        scheme: Scheme::Symmetric,
        data: bits(1, shape.nibble_bytes()).into_iter().map(|bits| (bits >> 16) as u8).collect(),
        scales: floats(2, shape.groups()).into_iter().map(|x| f16::from_f32(0.15 + 0.05 * x).to_bits()).collect(),
        offsets: Vec::new(),
    }
}

/// A backend with operands.
#[derive(Default)]
pub struct Bench {
    plan: Plan,
    uploads: Vec<(Span, Vec<u8>)>,
}

impl Bench {
    /// An operand.
    pub fn add<T: IntoBytes + Immutable>(&mut self, content: &[T]) -> Span {
        let bytes = content.as_bytes();
        let span = self.plan.add("", Category::Scratch, bytes.len(), Lifetime::ALWAYS);
        self.uploads.push((span, bytes.to_vec()));
        span
    }

    /// Room for floats.
    pub fn out(&mut self, n: usize) -> Span {
        self.plan.add("", Category::Scratch, 4 * n, Lifetime::ALWAYS)
    }

    /// A weight.
    pub fn weight(&mut self, planes: &Planes) -> Weight {
        Weight {
            shape: planes.shape,
            kind: planes.kind,
            scheme: planes.scheme,
            data: self.add(&planes.data),
            scales: self.add(&planes.scales),
            offsets: Span::NONE,
            residue: Span::NONE,
        }
    }

    /// The backend, ready.
    pub fn build(mut self, largest: &MaxShapes) -> Cpu {
        let mut cpu = Cpu::new();
        let scratch = self.plan.add("", Category::Scratch, cpu.workspace_bytes(largest), Lifetime::ALWAYS);
        cpu.allocate(self.plan.total(), None, scratch).unwrap();
        self.uploads.iter().for_each(|(span, bytes)| cpu.upload(bytes, *span));
        cpu
    }
}

/// The floats of a span.
pub fn read(cpu: &Cpu, span: Span) -> Vec<f32> {
    let mut out = vec![0f32; span.bytes / 4];
    cpu.download(span, out.as_mut_bytes());
    out
}

/// Panics unless each element is within `tolerance`, absolute and relative; NaN never is.
pub fn check(found: impl IntoIterator<Item = f32>, expected: &[f64], tolerance: f64) {
    let found: Vec<f32> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.into_iter().zip(expected) {
        let near = (f64::from(found) - expected).abs() <= tolerance * (1.0 + expected.abs());
        assert!(near, "{found} where {expected} is expected");
    }
}
