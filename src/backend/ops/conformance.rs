//! What every backend must pass: each operation on small operands of odd shapes, against its reference in float64.
//!
//! Operands are numbers that a bfloat16 holds, so that they are the same for any type of activations; the padding between
//! rows, and all memory that an operation may not read, holds NaN.

use super::Precision;
use super::reference::{Planes, wide};
use crate::backend::{Backend, Compute, MaxShapes, Weight};
use crate::memory::{Category, Lifetime, Plan, Span};
use crate::quant::{Element, GroupScale, GroupedShape, Simulation, WeightCodec, WeightFormat, WeightPlane};
use half::bf16;
use zerocopy::{Immutable, IntoBytes};

/// Checks all operations but the fused pass of Adam, whose bits are tested with the rules. `open` gives backends without
/// memory.
///
/// # Panics
/// If a result is not near its reference, or the backend has not enough memory.
pub fn check(open: &dyn Fn() -> Box<dyn Backend>) {
    super::activation_pack::conformance(open);
    super::activation_quant::conformance(open);
    super::activation_scaling::conformance(open);
    super::attention::conformance(open);
    super::bias::conformance(open);
    super::embedding::conformance(open);
    super::factors::conformance(open);
    super::gaussian::conformance(open);
    super::gelu::conformance(open);
    super::linear::conformance(open);
    super::linear_grad_int8::conformance(open);
    super::loss::conformance(open);
    super::magnitude::conformance(open);
    super::matmul::conformance(open);
    super::norm::conformance(open);
    super::prefix::conformance(open);
    super::rope::conformance(open);
    super::scaling::conformance(open);
    super::swiglu::conformance(open);
    super::state_conformance::conformance(open);
    super::update_conformance::conformance(open);
}

/// The operands of one case, and then the backend that they are on.
pub(super) struct Case {
    backend: Box<dyn Backend>,
    plan: Plan,
    uploads: Vec<(Span, Vec<u8>)>,
    state: u64,
}

impl Case {
    pub(super) fn new(open: &dyn Fn() -> Box<dyn Backend>, seed: u64) -> Self {
        Self { backend: open(), plan: Plan::default(), uploads: Vec::new(), state: seed }
    }

    /// The next repeatable 32 bits (SplitMix64).
    fn bits(&mut self) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 32) as u32
    }

    /// Numbers between -1 and 1.
    pub(super) fn numbers(&mut self, count: usize) -> Vec<f32> {
        let mut one = || bf16::from_f32(self.bits() as f32 / (1u32 << 31) as f32 - 1.0).to_f32();
        (0..count).map(|_| one()).collect()
    }

    /// Numbers below `n`.
    pub(super) fn indices(&mut self, count: usize, n: u32) -> Vec<u32> {
        (0..count).map(|_| self.bits() % n).collect()
    }

    /// An operand of plain numbers.
    pub(super) fn add<T: IntoBytes + Immutable>(&mut self, values: &[T]) -> Span {
        self.bytes(values.as_bytes().to_vec())
    }

    /// Room for a result of `count` float32, filled with NaN.
    pub(super) fn room(&mut self, count: usize) -> Span {
        self.bytes(vec![0xff; 4 * count])
    }

    /// Room for bytes.
    pub(super) fn bytes(&mut self, bytes: Vec<u8>) -> Span {
        let span = self.plan.add("", Category::Scratch, bytes.len(), Lifetime::ALWAYS);
        self.uploads.push((span, bytes));
        span
    }

    /// Bytes of a row of activations.
    fn row(&self, width: usize) -> usize {
        self.backend.activation_bytes() * width.next_multiple_of(self.backend.row_multiple())
    }

    /// Rows of activations.
    pub(super) fn activations(&mut self, values: &[f32], width: usize) -> Span {
        let (row, narrow) = (self.row(width), self.is_narrow());
        let mut bytes = vec![0xff; values.len() / width * row];
        for (row, values) in bytes.chunks_exact_mut(row).zip(values.chunks_exact(width)) {
            match narrow {
                true => row.chunks_exact_mut(2).zip(values).for_each(|(to, &x)| {
                    to.copy_from_slice(&bf16::from_f32(x).to_le_bytes());
                }),
                false => row[..4 * width].copy_from_slice(values.as_bytes()),
            }
        }
        self.bytes(bytes)
    }

    /// Room for `rows` rows of activations.
    pub(super) fn room_of_rows(&mut self, rows: usize, width: usize) -> Span {
        self.bytes(vec![0xff; rows * self.row(width)])
    }

    /// A weight with values of about one.
    pub(super) fn weight(&mut self, shape: GroupedShape, format: WeightFormat) -> (Weight, Planes) {
        let codec = format.codec();
        let data = match codec.element() {
            Element::F32 => self.numbers(shape.len()).as_bytes().to_vec(),
            Element::Bf16 => {
                let numbers = self.numbers(shape.len());
                numbers.into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect()
            }
            _ => (0..format.plane_bytes(WeightPlane::Data, shape)).map(|_| self.bits() as u8).collect(),
        };
        let step = if codec.element() == Element::I8 { 0.01 } else { 0.125 };
        let mut planes = [WeightPlane::Scales, WeightPlane::Offsets].map(|at| vec![0; format.plane_bytes(at, shape)]);
        let [scales, offsets] = &mut planes;
        let offset = codec.has_offsets().then_some(-0.75);
        for group in 0..if codec.is_grouped() { shape.groups() } else { 0 } {
            GroupScale { scale: step, offset }.write(format.scale(), scales, offsets, group);
        }
        let [scales, offsets] = planes;
        let weight = Weight {
            shape,
            format,
            data: self.bytes(data.clone()),
            scales: self.bytes(scales.clone()),
            offsets: self.bytes(offsets.clone()),
            residue: Span::NONE,
        };
        (weight, Planes { shape, format, data, scales, offsets })
    }

    /// Gives the backend its memory and the operands, and runs `work`.
    pub(super) fn run(&mut self, max: MaxShapes, work: impl FnOnce(&mut dyn Backend)) {
        let bytes = self.backend.workspace_bytes(&max);
        let workspace = self.plan.add("", Category::Scratch, bytes, Lifetime::ALWAYS);
        self.backend.allocate(self.plan.total(), None, workspace).expect("memory for the operands of a test");
        for (span, bytes) in self.uploads.iter().filter(|(span, _)| !span.is_none()) {
            self.backend.upload(bytes, *span);
        }
        work(self.backend.as_mut());
        self.backend.status().expect("operations that are carried out");
    }

    /// The precision of activations.
    pub(super) fn precision(&self) -> Precision {
        if self.is_narrow() { Precision::Bf16 } else { Precision::F32 }
    }

    /// Whether activations are bfloat16.
    fn is_narrow(&self) -> bool {
        self.backend.activation_bytes() == 2
    }

    /// Checks rows of activations.
    pub(super) fn near_rows(&self, span: Span, width: usize, expected: &[f64], what: &str) {
        self.near(&self.rows(span, width), expected, what);
    }

    /// What rows of activations are.
    pub(super) fn rows(&self, span: Span, width: usize) -> Vec<f64> {
        let mut bytes = vec![0; span.bytes];
        self.backend.download(span, &mut bytes);
        let number = |b: &[u8]| match self.is_narrow() {
            true => bf16::from_le_bytes([b[0], b[1]]).to_f64(),
            false => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        };
        let element = self.backend.activation_bytes();
        let rows = bytes.chunks_exact(self.row(width));
        rows.flat_map(|row| row.chunks_exact(element).take(width).map(number)).collect()
    }

    /// Checks float32 numbers.
    pub(super) fn near_floats(&self, span: Span, expected: &[f64], what: &str) {
        self.near(&wide(&self.floats(span)), expected, what);
    }

    /// What float32 numbers are.
    pub(super) fn floats(&self, span: Span) -> Vec<f32> {
        let mut found = vec![0f32; span.bytes / 4];
        self.backend.download(span, found.as_mut_bytes());
        found
    }

    /// Checks the bits of float32 numbers.
    pub(super) fn same_floats(&self, span: Span, expected: &[f32], what: &str) {
        let found = self.floats(span);
        assert_eq!(found.len(), expected.len(), "{what}: elements");
        for (i, (x, y)) in found.iter().zip(expected).enumerate() {
            assert!(x.to_bits() == y.to_bits(), "{what}: element {i} is {x}, not {y}, on {}", self.backend.describe());
        }
    }

    /// Checks that float32 numbers are no further than `distance` from the expected ones.
    pub(super) fn within(&self, span: Span, expected: &[f64], distance: f64, what: &str) {
        let found = self.floats(span);
        assert_eq!(found.len(), expected.len(), "{what}: elements");
        for (i, (x, y)) in wide(&found).iter().zip(expected).enumerate() {
            assert!((x - y).abs() <= distance, "{what}: element {i} is {x}, not {y}, on {}", self.backend.describe());
        }
    }

    /// Operands are exact; results and what an operation keeps in between are rounded to the type of activations.
    fn near(&self, found: &[f64], expected: &[f64], what: &str) {
        let tolerance = if self.is_narrow() { 1.0 / 64.0 } else { 1e-4 };
        assert_eq!(found.len(), expected.len(), "{what}: elements");
        for (i, (x, y)) in found.iter().zip(expected).enumerate() {
            let near = (x - y).abs() <= tolerance * (1.0 + y.abs());
            assert!(near, "{what}: element {i} is {x}, not {y}, on {}", self.backend.describe());
        }
    }
}

/// The largest shapes of these cases.
pub(super) const MAX: MaxShapes = MaxShapes {
    tokens: 128,
    features: 320,
    inputs: 320,
    keys: 128,
    parameter: 1 << 15,
    head_dim: 32,
    prefix: 1 << 9,
    compute: Compute::F32,
};

/// Formats of memory whose values are stored; of four bits, codes alone.
pub(super) fn stored() -> impl Iterator<Item = WeightFormat> {
    // Only files hold f16.
    WeightCodec::ALL.into_iter().filter(|codec| codec.element() != Element::F16).map(WeightFormat::of)
}

/// Formats whose values products see rounded to four bits.
pub(super) fn simulated() -> impl Iterator<Item = WeightFormat> {
    Simulation::ALL.into_iter().map(WeightFormat::simulated)
}
