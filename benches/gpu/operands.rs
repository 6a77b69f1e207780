//! Operands of timed operations: random contents, never zeros, on the device.

use crate::harness::{Harness, floats, pitch, words};
use half::{bf16, f16};
use tetrad::backend::cuda::Cuda;
use tetrad::backend::{MaxShapes, Param, Scheme, State, Weight, WeightKind};
use tetrad::memory::Span;
use tetrad::model::StorageConfig;
use tetrad::optim::{AdamFamily, Optimizer, OptimizerConfig, ParamClass, ParamInfo};
use tetrad::quant::GroupedShape;

impl Harness {
    /// bf16 numbers between -1 and 1, unpadded.
    pub fn random_activations(&mut self, seed: u64, count: usize) -> Span {
        let values: Vec<u16> = floats(seed, count).into_iter().map(|x| bf16::from_f32(x).to_bits()).collect();
        self.add(&values)
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
    pub fn random_weight(&mut self, rows: usize, cols: usize, kind: WeightKind) -> Weight {
        let g = GroupedShape::new(rows, cols, 128);
        let random = |seed, count| words(seed, count).map(|word| (word >> 24) as u8).collect::<Vec<_>>();
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
            WeightKind::Bf16 => weight.data = self.random_activations(7, g.len()),
            WeightKind::F32 => weight.data = self.add(&floats(7, g.len())),
            _ => {
                weight.data = self.add(&random(7, g.nibble_bytes()));
                weight.residue = self.add(&random(8, g.nibble_bytes()));
                weight.scales = self.add(&vec![f16::from_f32(0.02).to_bits(); g.groups()]);
            }
        }
        weight
    }

    /// A packed parameter with four-bit state.
    pub fn param(&mut self, rows: usize, cols: usize) -> Param {
        let weight = self.random_weight(rows, cols, WeightKind::Int4);
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
