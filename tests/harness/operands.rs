//! Operands of single operations: where they are in a backend's arena, what they hold, how results are read and compared.
//! The benchmarks include this file, so it needs nothing of the others.

// Every program that includes it uses a part.
#![allow(dead_code)]

use half::{bf16, f16};
use tetrad::backend::cuda::{Gpu, Info};
use tetrad::backend::ops::reference::Planes;
use tetrad::backend::{Backend, DeviceInfo as _, MaxShapes, Weight};
use tetrad::memory::{Category, Lifetime, Plan, Span};
use tetrad::quant::{Element, GroupedShape, Simulation, WeightCodec, WeightFormat, WeightPlane};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A repeatable source of numbers (SplitMix64).
pub struct Random(pub u64);

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
        let powers: Vec<u8> = match format.scale() {
            Element::PowerOfTwo => (0..shape.groups()).map(|_| 123 + self.below(4) as u8).collect(),
            _ => Vec::new(),
        };
        let mut per_group = |least: f32, spread: f32| -> Vec<u8> {
            let one = |_| f16::from_f32(least + spread * self.float()).to_le_bytes();
            (0..shape.groups()).flat_map(one).collect()
        };
        let halves = codec.is_grouped() && powers.is_empty();
        let scales = if halves { per_group(step, step / 2.0) } else { powers };
        let offsets = if codec.has_offsets() { per_group(-1.0, 0.5) } else { Vec::new() };
        Planes { shape, format, data, scales, offsets }
    }
}

/// Every format that products read; what only updates read is left out.
pub const FORMATS: [WeightFormat; 10] = [
    WeightFormat::FP4.with_residue(false),
    WeightFormat::F32,
    WeightFormat::BF16,
    WeightFormat::INT8,
    WeightFormat::of(WeightCodec::Int4),
    WeightFormat::of(WeightCodec::Int4Offset),
    WeightFormat::simulated(Simulation::Int4 { offsets: true }),
    WeightFormat::simulated(Simulation::Int4Rows { offsets: false }),
    WeightFormat::simulated(Simulation::Int4Rows { offsets: true }),
    WeightFormat::simulated(Simulation::Fp4),
];

/// Where the segment of each query starts, in `batch` sequences that hold samples of these lengths, each in another
/// order.
pub fn segment_starts(batch: usize, lengths: &[usize]) -> Vec<u32> {
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

/// Repeatable numbers between -1 and 1.
pub fn floats(seed: u64, count: usize) -> Vec<f32> {
    words(seed, count).map(|word| (word >> 8) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

/// The same rounded to bfloat16.
pub fn bf16_floats(seed: u64, count: usize) -> Vec<f32> {
    floats(seed, count).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect()
}

/// Repeatable bits.
pub fn words(seed: u64, count: usize) -> impl Iterator<Item = u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 32) as u32
    })
}

/// A symmetric INT4 weight with values of about one.
pub fn int4(rows: usize, cols: usize, group: usize) -> Planes {
    let shape = GroupedShape::new(rows, cols, group);
    Planes {
        shape,
        format: WeightFormat::of(WeightCodec::Int4),
        data: words(1, shape.nibble_bytes()).map(|word| (word >> 16) as u8).collect(),
        scales: floats(2, shape.groups())
            .into_iter()
            .flat_map(|x| f16::from_f32(0.15 + 0.05 * x).to_le_bytes())
            .collect(),
        offsets: Vec::new(),
    }
}

/// Bits of bfloat16.
pub fn narrow(x: &[f32]) -> Vec<u16> {
    x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()
}

/// Operands of operations, before there is a backend that holds them.
#[derive(Default)]
pub struct Harness {
    plan: Plan,
    uploads: Vec<(Span, Vec<u8>)>,
}

impl Harness {
    /// An operand as it lies in memory.
    pub fn add<T: IntoBytes + Immutable>(&mut self, content: &[T]) -> Span {
        let bytes = content.as_bytes();
        let span = self.unfilled(bytes.len());
        self.uploads.push((span, bytes.to_vec()));
        span
    }

    /// Rows of activations; what lies between them is not a number.
    pub fn activations(&mut self, content: &[f32], width: usize) -> Span {
        let mut rows = vec![0xffffu16; content.len() / width * pitch(width)];
        for (row, values) in rows.chunks_exact_mut(pitch(width)).zip(content.chunks_exact(width)) {
            row[..width].copy_from_slice(&narrow(values));
        }
        self.add(&rows)
    }

    /// Room for `bytes` bytes that nothing fills.
    pub fn unfilled(&mut self, bytes: usize) -> Span {
        self.plan.add("", Category::Scratch, bytes, Lifetime::ALWAYS)
    }

    /// Room for rows of activations.
    pub fn rows(&mut self, count: usize, width: usize) -> Span {
        self.room(2 * count * pitch(width))
    }

    /// Room for `bytes` bytes, filled with what is not a number in any type.
    pub fn room(&mut self, bytes: usize) -> Span {
        self.add(&vec![0xffu8; bytes])
    }

    /// Room for `n` floats, each of them one that no operation gives.
    pub fn out(&mut self, n: usize) -> Span {
        self.add(&vec![12345.0f32; n])
    }

    /// A weight.
    pub fn weight(&mut self, planes: &Planes) -> Weight {
        Weight {
            shape: planes.shape,
            format: planes.format,
            data: self.add(&planes.data),
            scales: self.add(&planes.scales),
            offsets: self.add(&planes.offsets),
            residue: Span::NONE,
        }
    }

    /// Gives a backend its memory: the operands, and a workspace that holds no numbers.
    pub fn start(&self, backend: &mut dyn Backend, max: &MaxShapes) {
        let mut plan = self.plan.clone();
        let workspace = plan.add("", Category::Scratch, backend.workspace_bytes(max), Lifetime::ALWAYS);
        backend.allocate(plan.total(), None, workspace).expect("memory");
        // NaN shows in a result if anything reads it before it is written. What a device keeps there for itself is not scratch.
        let own = if backend.in_place() { 0 } else { Gpu::OWN_BYTES };
        if workspace.bytes > own {
            backend.upload(&vec![0xff; workspace.bytes - own], workspace.part(own, workspace.bytes - own));
        }
        self.uploads.iter().filter(|(span, _)| !span.is_none()).for_each(|(span, bytes)| backend.upload(bytes, *span));
    }
}

/// What a span holds.
pub fn read<T: FromBytes + IntoBytes + Immutable + Clone>(backend: &dyn Backend, span: Span) -> Vec<T> {
    let mut out =
        vec![T::read_from_bytes(&vec![0; size_of::<T>()]).expect("any bytes are a value"); span.bytes / size_of::<T>()];
    backend.download(span, out.as_mut_bytes());
    assert_eq!(backend.status(), Ok(()));
    out
}

/// Elements from one row of activations to the next.
pub fn pitch(width: usize) -> usize {
    width.next_multiple_of(Info.row_multiple())
}

/// Rows of activations as bits.
pub fn read_rows(backend: &dyn Backend, span: Span, width: usize) -> Vec<u16> {
    read::<u16>(backend, span).chunks_exact(pitch(width)).flat_map(|row| row[..width].to_vec()).collect()
}

/// Rows of activations as numbers.
pub fn read_activations(backend: &dyn Backend, span: Span, width: usize) -> Vec<f64> {
    read_rows(backend, span, width).into_iter().map(|bits| bf16::from_bits(bits).to_f64()).collect()
}

/// float32 as numbers.
pub fn read_floats(backend: &dyn Backend, span: Span) -> Vec<f64> {
    read::<f32>(backend, span).into_iter().map(f64::from).collect()
}

/// Half a unit in the last place of a bfloat16, relative.
pub const BF16: f64 = 1.0 / 256.0;

/// Panics unless each element is within `absolute + relative |expected|`; NaN never is.
pub fn assert_near<T: Copy + Into<f64>>(found: &[T], expected: &[f64], absolute: f64, relative: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (i, (&x, &y)) in found.iter().zip(expected).enumerate() {
        let x: f64 = x.into();
        assert!((x - y).abs() <= absolute + relative * y.abs(), "{what}[{i}]: {x} where {y} is expected");
    }
}
