//! The optimizer's step on packed planes, per weight and per byte that has to move: the gradient is read, codes, residue,
//! scales and state are read and written. `copy` moves the bytes of AdamW's step with state in four bits.
//!
//! Before a step is timed its bytes are compared: those of AdamW and its kin with the portable instruction set, which
//! tests hold against the naive step; those of a rule with products of matrices, which each instruction set adds up in
//! its own way, with one thread's.

#[path = "../tests/harness/operands.rs"]
mod operands;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use operands::floats;
use std::fmt;
use tetrad::backend::adam::state;
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::prelude::*;
use tetrad::backend::{Compute, DeviceInfo, MaxShapes, Moment, Param, SecondMoment, State, Weight};
use tetrad::memory::{Category, Lifetime, Plan, Span};
use tetrad::model::fill;
use tetrad::optim::{Groups, OptimizerConfig, ParamClass, ParamInfo, Rule, StateConfig, StepInfo};
use tetrad::quant::{GroupedShape, WeightFormat};
use zerocopy::IntoBytes;

fn main() {
    divan::main();
}

/// Rows and columns: the quick-start's largest matrix, then one that no cache holds.
const SHAPES: [(usize, usize); 2] = [(344, 128), (2736, 1024)];

/// How both moments are stored.
type Moments = (Moment, SecondMoment);

const INT4: Moments = (Moment::Int4, SecondMoment::Int4);

/// What is timed.
#[derive(Clone, Copy)]
struct Case {
    rule: Rule,
    moments: Moments,
    shape: (usize, usize),
    /// Steps from one projection to the next, of a rule that has one.
    gap: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { rule, moments: (m, _), .. }, (rows, cols)) = (self, self.shape);
        write!(f, "{} {} {rows}x{cols}", rule.name(), format!("{m:?}").to_lowercase())
    }
}

impl Case {
    fn groups(&self) -> Groups {
        let mut config = OptimizerConfig { update_proj_gap: self.gap, ..OptimizerConfig::of(self.rule) };
        if self.rule.reads("rank") {
            config.rank = self.shape.0.min(self.shape.1) as u64 / 4;
        }
        config.groups(StateConfig { m: self.moments.0, v: self.moments.1, feedback: false })
    }

    fn info(&self) -> ParamInfo {
        let shape = GroupedShape::new(self.shape.0, self.shape.1, 64);
        ParamInfo { class: ParamClass::Matrix, shape, head_dim: 64 }
    }
}

/// Every rule with its state in 32, 8 and 4 bits; what a rule keeps whatever the bits are is timed once.
fn rules() -> Vec<Case> {
    let moments = [(Moment::F32, SecondMoment::F32), (Moment::Int8, SecondMoment::Int8), INT4];
    let mut cases = Vec::new();
    for (shape, &rule) in SHAPES.iter().flat_map(|shape| Rule::ALL.iter().map(move |rule| (*shape, rule))) {
        let mut seen = Vec::new();
        for moments in moments {
            let case = Case { rule, moments, shape, gap: u64::MAX };
            let state = case.groups().declare(&case.info()).1;
            if !seen.contains(&state) {
                seen.push(state);
                cases.push(case);
            }
        }
    }
    cases
}

struct Tensor {
    cpu: Cpu,
    groups: Groups,
    param: Param,
    grad: Span,
    workspace: Span,
    gradient: Vec<f32>,
    /// Bytes that a step has to move.
    moved: usize,
    number: u64,
}

impl Tensor {
    fn new(case: &Case, mut cpu: Cpu) -> Self {
        let (groups, info) = (case.groups(), case.info());
        let g = info.shape;
        let mut plan = Plan::default();
        let mut add = |bytes| plan.add("", Category::Scratch, bytes, Lifetime::ALWAYS);
        let weight = Weight::place(g, WeightFormat::INT4, |_, bytes| add(bytes));
        let (group, specs) = groups.declare(&info);
        let state = State::place(&specs, g, &mut |_, bytes| add(bytes));
        let features = g.rows.max(g.cols);
        let largest = MaxShapes {
            tokens: 1,
            features,
            inputs: features,
            keys: 1,
            parameter: g.len(),
            head_dim: 2,
            prefix: 0,
            compute: Compute::F32,
        };
        let (grad, scratch) = (add(4 * g.len()), add(cpu.workspace_bytes(&largest)));
        let workspace = add(4 * groups.workspace(&info));
        cpu.allocate(plan.total(), None, scratch).unwrap();
        let start = floats(1, g.len());
        fill(&mut cpu, &weight, &mut |row, out| out.copy_from_slice(&start[row * g.cols..][..g.cols]));
        let param = Param { id: 0, group, decay: true, sparse: false, weight, state };
        let moved = grad.bytes + 2 * planes(&param).map(|span| span.bytes).sum::<usize>();
        Self { cpu, groups, param, grad, workspace, gradient: floats(2, g.len()), moved, number: 0 }
    }

    /// Rules but those of Adam's family leave a direction where the gradient was.
    fn give_gradient(&mut self) {
        self.cpu.upload(self.gradient.as_bytes(), self.grad);
    }

    fn step(&mut self) {
        self.number += 1;
        let at = StepInfo { number: self.number, lr: 1e-3, seed: 1 };
        self.groups.step(&mut self.cpu, &self.param, self.grad, self.workspace, &at);
    }

    fn bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for span in planes(&self.param) {
            let mut bytes = vec![0; span.bytes];
            self.cpu.download(span, &mut bytes);
            all.extend(bytes);
        }
        all
    }
}

/// Weight, state and its scales.
fn planes(param: &Param) -> impl Iterator<Item = Span> {
    let weight = param.weight.planes().into_iter().filter(|span| !span.is_none());
    let state = param.state.tensors().filter(|tensor| tensor.spec.name != state::SCALARS);
    let state: Vec<_> = state.flat_map(|tensor| [tensor.data, tensor.scales]).collect();
    weight.chain(state.into_iter().filter(|span| !span.is_none()))
}

/// Whether a rule multiplies matrices.
fn multiplies(rule: Rule) -> bool {
    rule == Rule::Muon || rule.reads("update_proj_gap")
}

fn run(bencher: Bencher, case: &Case) {
    let portable = Isa::available().last().expect("the portable one is always there");
    let other = if multiplies(case.rule) { Cpu::with_threads(Isa::best(), 1) } else { Cpu::with_isa(portable) };
    let (mut fast, mut slow) = (Tensor::new(case, Cpu::with_isa(Isa::best())), Tensor::new(case, other));
    let before = fast.bytes();
    for _ in 1..=3 {
        for tensor in [&mut fast, &mut slow] {
            tensor.give_gradient();
            tensor.step();
            assert_eq!(tensor.cpu.update_stats().skipped, 0);
        }
    }
    assert!(fast.bytes() != before && fast.bytes() == slow.bytes(), "{case}: two ways to other bytes");
    let counters = (BytesCount::new(fast.moved), ItemsCount::new(fast.param.weight.shape.len()));
    let fast = std::cell::RefCell::new(fast);
    bencher
        .counter(counters.0)
        .counter(counters.1)
        .with_inputs(|| fast.borrow_mut().give_gradient())
        .bench_local_values(|()| fast.borrow_mut().step());
}

#[divan::bench(args = rules(), sample_size = 1, max_time = 2)]
fn step(bencher: Bencher, case: &Case) {
    run(bencher, case);
}

/// Means of rows, and of rows and columns, in place of each element's own second moment.
#[divan::bench(args = SHAPES.into_iter().flat_map(|shape| [(SecondMoment::Row, shape), (SecondMoment::Factored, shape)]),
               sample_size = 1)]
fn shared_second_moments(bencher: Bencher, (v, shape): (SecondMoment, (usize, usize))) {
    run(bencher, &Case { rule: Rule::Adamw, moments: (Moment::Int4, v), shape, gap: u64::MAX });
}

/// A step of GaLore, with a quarter of the smaller side as its rank, that looks for a projection.
#[divan::bench(args = SHAPES, sample_size = 1, max_time = 10)]
fn galore_refresh(bencher: Bencher, shape: (usize, usize)) {
    run(bencher, &Case { rule: Rule::Galore, moments: INT4, shape, gap: 1 });
}

/// As many bytes as AdamW's step moves with state in four bits: half of them read, half written.
#[divan::bench(args = SHAPES)]
fn copy(bencher: Bencher, shape: (usize, usize)) {
    let case = Case { rule: Rule::Adamw, moments: INT4, shape, gap: u64::MAX };
    let tensor = Tensor::new(&case, Cpu::new());
    let (from, mut to) = (vec![1u8; tensor.moved / 2], vec![0u8; tensor.moved / 2]);
    to.copy_from_slice(&from);
    assert_eq!(from, to);
    let counters = (BytesCount::new(tensor.moved), ItemsCount::new(tensor.param.weight.shape.len()));
    bencher.counter(counters.0).counter(counters.1).bench_local(|| divan::black_box(&mut to).copy_from_slice(&from));
}
