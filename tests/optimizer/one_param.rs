//! One parameter on a CPU, with the state that its rule declares.

use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::prelude::*;
use tetrad::backend::{Compute, DeviceInfo, MaxShapes, Param, State, Weight};
use tetrad::memory::{Category, Lifetime, Plan, Span};
use tetrad::quant::{GroupedShape, StateSpec, WeightFormat};
use zerocopy::IntoBytes;

pub struct OneParam {
    pub cpu: Cpu,
    pub param: Param,
    pub grad: Span,
    pub workspace: Span,
}

impl OneParam {
    pub fn new(isa: Isa, g: GroupedShape, format: WeightFormat, state: &[StateSpec], workspace: usize) -> Self {
        let mut plan = Plan::default();
        let mut add = |bytes| match bytes {
            0 => Span::NONE,
            bytes => plan.add("", Category::Scratch, bytes, Lifetime::ALWAYS),
        };
        let weight = Weight::place(g, format, |_, bytes| add(bytes));
        let state = State::place(state, g, &mut |_, bytes| add(bytes));
        let mut cpu = Cpu::with_isa(isa);
        let features = g.rows.max(g.cols);
        let largest = MaxShapes {
            tokens: 1,
            features,
            inputs: g.cols,
            keys: 1,
            parameter: g.len(),
            head_dim: 2,
            prefix: 0,
            compute: Compute::F32,
        };
        let grad = add(4 * g.len());
        let (workspace, scratch) = (add(4 * workspace), add(cpu.workspace_bytes(&largest)));
        cpu.allocate(plan.total(), None, scratch).unwrap();
        if !workspace.is_none() {
            // What an earlier operation may have left.
            cpu.upload(&vec![0xff; workspace.bytes], workspace);
        }
        for tensor in state.tensors() {
            cpu.upload(&vec![tensor.spec.format.codec.zero_byte(); tensor.data.bytes], tensor.data);
        }
        let param = Param { id: 3, group: 0, decay: true, sparse: false, weight, state };
        Self { cpu, param, grad, workspace }
    }

    pub fn read(&self, span: Span) -> Vec<u8> {
        let mut bytes = vec![0; span.bytes];
        if !span.is_none() {
            self.cpu.download(span, &mut bytes);
        }
        bytes
    }

    pub fn floats(&self, span: Span) -> Vec<f32> {
        self.read(span).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub fn write<T: IntoBytes + zerocopy::Immutable>(&mut self, values: &[T], span: Span) {
        if !values.is_empty() {
            self.cpu.upload(values.as_bytes(), span);
        }
    }

    /// All planes of weight and state.
    pub fn planes(&self) -> Vec<Vec<u8>> {
        let weight = self.param.weight.planes().into_iter().filter(|span| !span.is_none());
        weight.chain(self.param.state.planes()).map(|span| self.read(span)).collect()
    }
}
