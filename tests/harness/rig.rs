//! A GPU for tests: the emulated one, or the machine's own where `TETRAD_REQUIRE_CUDA=1` asks for it.
#![allow(dead_code)]

use super::gpu::{emulated, required};
use half::bf16;
use tetrad::backend::cuda::{Cuda, Info, Search};
use tetrad::backend::{Backend, DeviceInfo as _, MaxShapes, Scheme, Weight, WeightKind};
use tetrad::memory::{Category, Lifetime, Plan, Span};
use tetrad::quant::GroupedShape;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A device without memory.
pub fn open() -> Cuda {
    let search = if required() { Search::usual() } else { emulated() };
    Cuda::open_with(0, &search).expect("the emulated device, or with TETRAD_REQUIRE_CUDA=1 the machine's own, opens")
}

/// Orders in which the emulated threads of a block take turns. A real device has its own.
pub fn orders() -> impl Iterator<Item = u32> {
    0..if required() { 1 } else { 4 }
}

/// Repeatable numbers between -1 and 1, a bfloat16 each.
pub fn floats(seed: u64, count: usize) -> Vec<f32> {
    words(seed, count).map(|word| bf16::from_f32((word >> 8) as f32 / (1u32 << 23) as f32 - 1.0).to_f32()).collect()
}

/// Repeatable bits.
pub fn words(seed: u64, count: usize) -> impl Iterator<Item = u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 32) as u32
    })
}

/// Bits of bfloat16.
pub fn narrow(x: &[f32]) -> Vec<u16> {
    x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()
}

/// Operands of operations, and the backend to run them on.
#[derive(Default)]
pub struct Rig {
    plan: Plan,
    uploads: Vec<(Span, Vec<u8>)>,
}

impl Rig {
    /// An operand as it lies in memory.
    pub fn add<T: IntoBytes + Immutable>(&mut self, content: &[T]) -> Span {
        let bytes = content.as_bytes();
        let span = self.plan.add("", Category::Scratch, bytes.len(), Lifetime::ALWAYS);
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

    /// Room for rows of activations.
    pub fn rows(&mut self, count: usize, width: usize) -> Span {
        self.room(2 * count * pitch(width))
    }

    /// Room for `bytes` bytes, filled with what is not a number in any type.
    pub fn room(&mut self, bytes: usize) -> Span {
        self.add(&vec![0xffu8; bytes])
    }

    /// A vector or matrix of float32.
    pub fn weight(&mut self, rows: usize, cols: usize, values: &[f32]) -> Weight {
        let none = Span::NONE;
        let shape = GroupedShape::new(rows, cols, 32);
        let data = self.add(values);
        let scheme = Scheme::Symmetric;
        Weight { shape, kind: WeightKind::F32, scheme, data, scales: none, offsets: none, residue: none }
    }

    /// Gives the backend its memory, scratch that holds no numbers, and the operands.
    pub fn start(&self, backend: &mut dyn Backend, largest: &MaxShapes) {
        let mut plan = self.plan.clone();
        let scratch = plan.add("", Category::Scratch, backend.workspace_bytes(largest), Lifetime::ALWAYS);
        backend.allocate(plan.total(), None, scratch).expect("memory");
        for (span, bytes) in &self.uploads {
            if !span.is_none() {
                backend.upload(bytes, *span);
            }
        }
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
pub fn check(found: &[f64], expected: &[f64], absolute: f64, relative: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (i, (&x, &y)) in found.iter().zip(expected).enumerate() {
        let near = (x - y).abs() <= absolute + relative * y.abs();
        assert!(near, "{what}[{i}]: {x} where {y} is expected");
    }
}
