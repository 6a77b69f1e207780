//! Operands of timed operations: random contents, never zeros, on the device.

use crate::harness::operands::{Harness, floats, pitch, words};
use half::{bf16, f16};
use tetrad::backend::cuda::Cuda;
use tetrad::backend::{MaxShapes, Param, State, Weight};
use tetrad::memory::Span;
use tetrad::model::StorageConfig;
use tetrad::optim::{AdamFamily, Optimizer, OptimizerConfig, ParamClass, ParamInfo};
use tetrad::quant::{GroupedShape, WeightCodec, WeightFormat, WeightPlane};

/// Elements after which contents repeat: a prime, so that no two rows of a matrix are the same; drawing all of them would
/// take longer than what is measured.
const PERIOD: usize = 1_000_003;

/// `count` elements, which repeat those of `draw`.
pub fn repeated<T: Copy>(count: usize, draw: impl FnOnce(usize) -> Vec<T>) -> Vec<T> {
    let mut all = draw(count.min(PERIOD));
    while all.len() < count {
        all.extend_from_within(..all.len().min(count - all.len()).min(PERIOD));
    }
    all
}

/// Bits of bf16 numbers between -1 and 1.
pub fn halves(seed: u64, count: usize) -> Vec<u16> {
    repeated(count, |count| floats(seed, count).into_iter().map(|x| bf16::from_f32(x).to_bits()).collect())
}

/// Any bytes.
pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
    repeated(count, |count| words(seed, count).map(|word| (word >> 24) as u8).collect())
}

impl Harness {
    /// bf16 numbers between -1 and 1, unpadded.
    pub fn random_activations(&mut self, seed: u64, count: usize) -> Span {
        self.add(&halves(seed, count))
    }

    /// float32 numbers between -1 and 1.
    pub fn random_floats(&mut self, seed: u64, count: usize) -> Span {
        self.add(&repeated(count, |count| floats(seed, count)))
    }

    /// Rows of activations, random to the end of their pitch.
    pub fn random_rows(&mut self, seed: u64, count: usize, width: usize) -> Span {
        self.random_activations(seed, count * pitch(width))
    }

    /// Room for rows of activations, which an operation fills.
    pub fn unfilled_rows(&mut self, count: usize, width: usize) -> Span {
        self.unfilled(2 * count * pitch(width))
    }

    /// A weight with values of about one tenth.
    pub fn random_weight(&mut self, rows: usize, cols: usize, format: WeightFormat) -> Weight {
        let shape = GroupedShape::new(rows, cols, 128);
        Weight::place(shape, format, |plane, bytes| match (plane, format.codec()) {
            _ if bytes == 0 => Span::NONE,
            (WeightPlane::Data, WeightCodec::Bf16) => self.random_activations(7, shape.len()),
            (WeightPlane::Data, WeightCodec::F32) => self.random_floats(7, shape.len()),
            (WeightPlane::Scales, _) => self.add(&vec![f16::from_f32(0.02).to_bits(); shape.groups()]),
            _ => self.add(&self::bytes(7 + plane as u64, bytes)),
        })
    }

    /// A packed parameter with four-bit state.
    pub fn param(&mut self, rows: usize, cols: usize) -> Param {
        let weight = self.random_weight(rows, cols, WeightFormat::INT4);
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
    pub fn open(&self, max: &MaxShapes) -> Cuda {
        let mut cuda = Cuda::open(0).expect("a device");
        self.start(&mut cuda, max);
        cuda
    }
}
