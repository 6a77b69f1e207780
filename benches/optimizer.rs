//! The optimizer step on packed planes. Items are the bytes that must move: the gradient is read, codes, residue,
//! scales and both moments are read and written. Gitem/s is GB/s, beside a plain copy of as many bytes in the same
//! run. Before it is timed, each step's bytes are compared with those of the portable instruction set, which tests
//! hold against the naive step.

#[path = "../tests/harness/operands.rs"]
mod operands;

use divan::Bencher;
use divan::counter::ItemsCount;
use operands::floats;
use tetrad::backend::adam::{AdamArgs, state};
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::prelude::*;
use tetrad::backend::{DeviceInfo, MaxShapes, Moment, Param, SecondMoment, State, Weight};
use tetrad::memory::{Category, Lifetime, Plan, Span};
use tetrad::model::fill;
use tetrad::optim::{AdamFamily, AdamStepInfo, GaLore, LowRank, Optimizer, OptimizerConfig, ParamClass, ParamInfo};
use tetrad::optim::{Residual, StateConfig, StepInfo, Variant};
use tetrad::quant::{GroupedShape, StateCodec, WeightFormat};
use zerocopy::IntoBytes;

fn main() {
    divan::main();
}

/// Rows and columns: the quick-start's largest matrix, then one that no cache holds.
const SHAPES: [(usize, usize); 2] = [(344, 128), (2736, 1024)];

struct Tensor {
    cpu: Cpu,
    param: Param,
    grad: Span,
    workspace: Span,
    /// Bytes that a step has to move.
    moved: usize,
}

/// How both moments are stored.
type Moments = (Moment, SecondMoment);

const INT4: Moments = (Moment::Int4, SecondMoment::Int4);

fn tensor(shape: (usize, usize), (m, v): Moments, isa: Isa) -> Tensor {
    let rule = AdamFamily::new(&OptimizerConfig::default(), StateConfig { m, v, feedback: false });
    tensor_of(shape, &rule, isa)
}

fn tensor_of((rows, cols): (usize, usize), rule: &dyn Optimizer, isa: Isa) -> Tensor {
    let g = GroupedShape::new(rows, cols, 64);
    let mut plan = Plan::default();
    let mut add = |bytes| plan.add("", Category::Scratch, bytes, Lifetime::ALWAYS);
    let weight = Weight::place(g, WeightFormat::INT4, |_, bytes| add(bytes));
    let info = ParamInfo { class: ParamClass::Matrix, shape: g, head_dim: 64 };
    let state = State::place(&rule.state(&info), g, &mut |_, bytes| add(bytes));
    let mut cpu = Cpu::with_isa(isa);
    let features = rows.max(cols);
    let largest = MaxShapes { tokens: 1, features, inputs: features, keys: 1, parameter: g.len(), head_dim: 2 };
    let (grad, scratch) = (add(4 * g.len()), add(cpu.workspace_bytes(&largest)));
    let workspace = add(4 * rule.workspace(&info));
    cpu.allocate(plan.total(), None, scratch).unwrap();
    let start = floats(1, g.len());
    fill(&mut cpu, &weight, &mut |row, out| out.copy_from_slice(&start[row * cols..][..cols]));
    cpu.upload(floats(2, g.len()).as_bytes(), grad);
    let param = Param { id: 0, group: 0, decay: true, sparse: false, weight, state };
    let moved = grad.bytes + 2 * planes(&param).map(|span| span.bytes).sum::<usize>();
    Tensor { cpu, param, grad, workspace, moved }
}

/// Weight, moments and their scales.
fn planes(param: &Param) -> impl Iterator<Item = Span> {
    let weight = param.weight.planes().into_iter().filter(|span| !span.is_none());
    let moments = param.state.tensors().filter(|tensor| tensor.spec.name != state::SCALARS);
    let moments: Vec<_> = moments.flat_map(|tensor| [tensor.data, tensor.scales]).collect();
    weight.chain(moments.into_iter().filter(|span| !span.is_none()))
}

fn step(number: u64) -> AdamArgs {
    AdamStepInfo::new(&OptimizerConfig::default(), number, 1e-3, false, 1).args(true)
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut all = Vec::new();
    for span in planes(&tensor.param) {
        let mut bytes = vec![0; span.bytes];
        tensor.cpu.download(span, &mut bytes);
        all.extend(bytes);
    }
    all
}

fn run(bencher: Bencher, shape: (usize, usize), moments: Moments) {
    let portable = Isa::available().last().expect("the portable one is always there");
    let (mut fast, mut slow) = (tensor(shape, moments, Isa::best()), tensor(shape, moments, portable));
    let before = bytes(&fast);
    for number in 1..=3 {
        for tensor in [&mut fast, &mut slow] {
            tensor.cpu.adam(&tensor.param, tensor.grad, &step(number));
            assert_eq!(tensor.cpu.update_stats().skipped, 0);
        }
    }
    assert!(bytes(&fast) != before && bytes(&fast) == bytes(&slow), "instruction sets disagree");
    let Tensor { mut cpu, param, grad, moved, .. } = fast;
    let mut number = 3;
    bencher.counter(ItemsCount::new(moved)).bench_local(|| {
        number += 1;
        cpu.adam(&param, grad, &step(number))
    });
}

#[divan::bench(args = SHAPES)]
fn int4_state(bencher: Bencher, shape: (usize, usize)) {
    run(bencher, shape, INT4);
}

#[divan::bench(args = SHAPES)]
fn int8_state(bencher: Bencher, shape: (usize, usize)) {
    run(bencher, shape, (Moment::Int8, SecondMoment::Int8));
}

#[divan::bench(args = SHAPES)]
fn int4_m_and_one_v_per_row(bencher: Bencher, shape: (usize, usize)) {
    run(bencher, shape, (Moment::Int4, SecondMoment::Row));
}

#[divan::bench(args = SHAPES)]
fn int4_m_and_factored_v(bencher: Bencher, shape: (usize, usize)) {
    run(bencher, shape, (Moment::Int4, SecondMoment::Factored));
}

/// A step of GaLore with a quarter of the smaller side as its rank; in each the projection is looked for anew, or in none
/// but the first.
fn galore(bencher: Bencher, shape: (usize, usize), gap: u64) {
    let state = StateConfig { m: Moment::Int4, v: SecondMoment::Int4, feedback: false };
    let (rank, variant) = (shape.0.min(shape.1) / 4, Variant::Standard);
    let common = LowRank { rank, gap, beta1: 0.9, beta2: 0.999, eps: 1e-6, weight_decay: 0.0, variant, state };
    let rule = GaLore::new(common, Residual::Dropped, 0.25, StateCodec::F32);
    let Tensor { mut cpu, param, grad, workspace, .. } = tensor_of(shape, &rule, Isa::best());
    let gradient = floats(2, param.weight.shape.len());
    let mut number = 0;
    let mut step = move || {
        number += 1;
        cpu.upload(gradient.as_bytes(), grad);
        rule.step(&mut cpu, &param, grad, workspace, &StepInfo { number, lr: 1e-3, seed: 1 });
    };
    step();
    bencher.bench_local(step);
}

#[divan::bench(args = SHAPES)]
fn galore_step(bencher: Bencher, shape: (usize, usize)) {
    galore(bencher, shape, u64::MAX);
}

#[divan::bench(args = SHAPES)]
fn galore_step_with_refresh(bencher: Bencher, shape: (usize, usize)) {
    galore(bencher, shape, 1);
}

/// As many bytes as the int4 step moves, copied: half of them read, half written.
#[divan::bench(args = SHAPES)]
fn copy(bencher: Bencher, shape: (usize, usize)) {
    let moved = tensor(shape, INT4, Isa::best()).moved;
    let (from, mut to) = (vec![1u8; moved / 2], vec![0u8; moved / 2]);
    to.copy_from_slice(&from);
    assert_eq!(from, to);
    bencher.counter(ItemsCount::new(moved)).bench_local(|| divan::black_box(&mut to).copy_from_slice(&from));
}
