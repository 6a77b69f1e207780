//! Operands of timed operations: random contents, never zeros, on the device.

use half::{bf16, f16};
use tetrad::backend::cuda::{self, Cuda};
use tetrad::backend::{Backend, DeviceInfo, MaxShapes, Param, Scheme, State, Weight, WeightKind};
use tetrad::memory::{Category, Lifetime, Plan, Span};
use tetrad::model::StorageConfig;
use tetrad::optim::{AdamFamily, Optimizer, OptimizerConfig, ParamClass, ParamInfo};
use tetrad::quant::GroupedShape;
use zerocopy::{Immutable, IntoBytes};

/// Elements from one row of activations to the next.
pub fn pitch(width: usize) -> usize {
    width.next_multiple_of(cuda::Info.row_multiple())
}

/// Repeatable bits.
pub fn words(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 32) as u32
    }
}

/// Repeatable numbers between -1 and 1.
pub fn floats(seed: u64, count: usize) -> Vec<f32> {
    let mut next = words(seed);
    (0..count).map(|_| (next() >> 8) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

/// Spans and their contents, before there is memory.
#[derive(Default)]
pub struct Operands {
    plan: Plan,
    uploads: Vec<(Span, Vec<u8>)>,
}

impl Operands {
    /// A span with content.
    pub fn add<T: IntoBytes + Immutable>(&mut self, content: &[T]) -> Span {
        let span = self.room(content.as_bytes().len());
        self.uploads.push((span, content.as_bytes().to_vec()));
        span
    }

    /// A span that an operation fills.
    pub fn room(&mut self, bytes: usize) -> Span {
        self.plan.add("", Category::Scratch, bytes, Lifetime::ALWAYS)
    }

    /// bf16 numbers between -1 and 1, unpadded.
    pub fn activations(&mut self, seed: u64, count: usize) -> Span {
        let values: Vec<u16> = floats(seed, count).into_iter().map(|x| bf16::from_f32(x).to_bits()).collect();
        self.add(&values)
    }

    /// Rows of activations, random to the end of their pitch.
    pub fn rows(&mut self, seed: u64, count: usize, width: usize) -> Span {
        self.activations(seed, count * pitch(width))
    }

    /// Room for rows of activations.
    pub fn rows_room(&mut self, count: usize, width: usize) -> Span {
        self.room(2 * count * pitch(width))
    }

    /// A weight with values of about one tenth.
    pub fn weight(&mut self, rows: usize, cols: usize, kind: WeightKind) -> Weight {
        let g = GroupedShape::new(rows, cols, 128);
        let mut next = words(7);
        let none = Span::NONE;
        let mut weight = Weight {
            shape: g,
            kind,
            scheme: Scheme::Symmetric,
            data: none,
            scales: none,
            offsets: none,
            residue: none,
        };
        match kind {
            WeightKind::Bf16 => weight.data = self.activations(7, g.len()),
            WeightKind::F32 => weight.data = self.add(&floats(7, g.len())),
            _ => {
                weight.data = self.add(&(0..g.nibble_bytes()).map(|_| (next() >> 24) as u8).collect::<Vec<_>>());
                weight.residue = self.add(&(0..g.nibble_bytes()).map(|_| (next() >> 24) as u8).collect::<Vec<_>>());
                weight.scales = self.add(&vec![f16::from_f32(0.02).to_bits(); g.groups()]);
            }
        }
        weight
    }

    /// A packed parameter with four-bit state.
    pub fn param(&mut self, rows: usize, cols: usize) -> Param {
        let weight = self.weight(rows, cols, WeightKind::Int4);
        let info = ParamInfo { class: ParamClass::Matrix, shape: weight.shape, head_dim: 64 };
        let specs = AdamFamily::new(&OptimizerConfig::default(), StorageConfig::default().state()).state(&info);
        let zeros = specs
            .iter()
            .flat_map(|spec| spec.format.bytes(weight.shape).map(|bytes| vec![spec.format.codec.zero_byte(); bytes]));
        let mut planes = zeros.filter(|plane| !plane.is_empty());
        let state =
            State::place(&specs, weight.shape, &mut |_, _| self.add(&planes.next().expect("a plane for each span")));
        Param { id: 1, group: 0, decay: true, sparse: false, weight, state }
    }

    /// A device that holds them.
    pub fn start(&self, largest: &MaxShapes) -> Cuda {
        let mut cuda = Cuda::open(0).expect("a device");
        self.fill(&mut cuda, largest);
        cuda
    }

    /// Gives any backend its memory and the contents.
    pub fn fill(&self, backend: &mut dyn Backend, largest: &MaxShapes) {
        let mut plan = self.plan.clone();
        let sizes: &dyn DeviceInfo = backend;
        let scratch = plan.add("", Category::Scratch, sizes.workspace_bytes(largest), Lifetime::ALWAYS);
        backend.allocate(plan.total(), None, scratch).expect("memory");
        self.uploads.iter().for_each(|(span, bytes)| backend.upload(bytes, *span));
    }
}
