//! What the tests of all operations share: a plan, the operands in it, and one check for every instruction set and
//! number of threads.

use super::reference::Planes;
use super::{Cpu, Isa};
use crate::backend::{Backend, Largest, Sizes, Weight};
use crate::memory::{Category, Lifetime, Plan, Span};
use crate::quant::{GroupedShape, WeightCodec, WeightFormat, WeightPlane};
use half::{bf16, f16};
use zerocopy::IntoBytes;

/// A repeatable source of numbers (SplitMix64).
pub(super) struct Random(pub u64);

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
    pub fn planes(&mut self, shape: GroupedShape, format: WeightFormat) -> Planes {
        let codec = format.codec();
        let data = match codec {
            WeightCodec::F32 => self.floats(shape.len()).as_bytes().to_vec(),
            WeightCodec::Bf16 => {
                let bits = self.floats(shape.len()).into_iter().map(|x| bf16::from_f32(x).to_bits());
                bits.collect::<Vec<_>>().as_bytes().to_vec()
            }
            _ => (0..format.plane_bytes(WeightPlane::Data, shape)).map(|_| self.bits() as u8).collect(),
        };
        let step = if codec == WeightCodec::Int8 { 0.01 } else { 0.15 };
        let mut per_group = |least: f32, spread: f32| -> Vec<u16> {
            let one = |_| f16::from_f32(least + spread * self.float()).to_bits();
            (0..shape.groups()).map(one).collect()
        };
        let scales = if codec.is_grouped() { per_group(step, step / 2.0) } else { Vec::new() };
        let offsets = if codec.has_offsets() { per_group(-1.0, 0.5) } else { Vec::new() };
        Planes { shape, format, data, scales, offsets }
    }
}

/// Every format that products read; what only updates read is left out.
pub(super) const FORMATS: [WeightFormat; 7] = [
    WeightFormat::F32,
    WeightFormat::BF16,
    WeightFormat::INT8,
    WeightFormat::of(WeightCodec::Int4),
    WeightFormat::of(WeightCodec::Int4Offset),
    WeightFormat::simulated(WeightCodec::Int4),
    WeightFormat::simulated(WeightCodec::Int4Offset),
];

/// Operands of an operation under test.
#[derive(Default)]
pub(super) struct Rig {
    plan: Plan,
    uploads: Vec<(Span, Vec<u8>)>,
}

impl Rig {
    pub fn add(&mut self, content: &(impl IntoBytes + zerocopy::Immutable + ?Sized)) -> Span {
        let bytes = content.as_bytes();
        let span = self.plan.add("", Category::Scratch, bytes.len(), Lifetime::ALWAYS);
        self.uploads.push((span, bytes.to_vec()));
        span
    }

    /// Room for `n` floats, filled with what an operation must not take for a result.
    pub fn out(&mut self, n: usize) -> Span {
        self.add(&vec![12345.0f32; n][..])
    }

    pub fn weight(&mut self, planes: &Planes) -> Weight {
        Weight {
            shape: planes.shape,
            format: planes.format,
            data: self.add(&planes.data[..]),
            scales: self.add(&planes.scales[..]),
            offsets: self.add(&planes.offsets[..]),
            residue: Span::NONE,
        }
    }

    /// Runs `op` and returns the floats of `spans`.
    pub fn run(&self, isa: Isa, threads: usize, spans: &[Span], op: impl Fn(&mut Cpu) + Sync) -> Vec<Vec<f32>> {
        let largest =
            Largest { tokens: 600, features: 6000, inputs: 6000, keys: 300, parameter: 1 << 20, head_dim: 320 };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let mut cpu = Cpu::with_isa(isa);
            let mut plan = self.plan.clone();
            let scratch = plan.add("", Category::Scratch, cpu.scratch_bytes(&largest), Lifetime::ALWAYS);
            cpu.allocate(plan.total(), None, scratch).expect("memory");
            // Scratch that starts as NaN shows in a result if anything reads it before it is written.
            cpu.upload(&vec![0xff; scratch.bytes], scratch);
            self.uploads.iter().filter(|(span, _)| !span.is_none()).for_each(|(span, bytes)| cpu.upload(bytes, *span));
            op(&mut cpu);
            let read = |span: &Span| {
                let mut out = vec![0f32; span.bytes / 4];
                cpu.download(*span, out.as_mut_bytes());
                out
            };
            spans.iter().map(read).collect()
        })
    }

    /// Runs `op` on every instruction set with 1, 2 and 3 threads: the same bits for any number of threads, and
    /// within `tolerance` (absolute, and relative to the expected value) of what is expected.
    pub fn check(&self, expected: &[(Span, Vec<f64>)], tolerance: f64, op: impl Fn(&mut Cpu) + Sync) {
        let spans: Vec<Span> = expected.iter().map(|(span, _)| *span).collect();
        for isa in Isa::available() {
            let found = self.run(isa, 1, &spans, &op);
            for threads in [2, 3] {
                let again = self.run(isa, threads, &spans, &op);
                assert_eq!(
                    found.as_slice().concat().as_bytes(),
                    again.as_slice().concat().as_bytes(),
                    "{threads} threads"
                );
            }
            for (number, (found, (_, expected))) in found.iter().zip(expected).enumerate() {
                close(found, expected, tolerance, &format!("output {number}, {}", isa.name()));
            }
        }
    }
}

/// Fails unless each element is as near as `tolerance` says; NaN is near to nothing.
pub(super) fn close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let near = (f64::from(found) - expected).abs() <= tolerance * (1.0 + expected.abs());
        assert!(near, "{what}: element {i} is {found}, not {expected}");
    }
}

/// The first visible keys of `batch` sequences that hold samples of these lengths, in another order in each.
pub(super) fn beginnings(batch: usize, lengths: &[usize]) -> Vec<u32> {
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
