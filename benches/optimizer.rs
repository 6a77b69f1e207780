//! The optimizer step on packed planes. Items are the bytes that must move: the gradient is read, codes, residue,
//! scales and both moments are read and written. Gitem/s is GB/s, beside a plain copy of as many bytes in the same
//! run. Before it is timed, each step's bytes are compared with those of the portable instruction set, which tests
//! hold against the naive step.

mod support;

use divan::Bencher;
use divan::counter::ItemsCount;
use support::floats;
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::{Backend, Largest, Moment, Param, SecondMoment, Sizes, State, Weight};
use tetrad::memory::{Category, Lifetime, Plan, Span};
use tetrad::model::fill;
use tetrad::optim::{Optimizer, SCALARS, Step};
use tetrad::quant::{GroupedShape, WeightFormat};
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
    /// Bytes that a step has to move.
    moved: usize,
}

/// How both moments are stored.
type Moments = (Moment, SecondMoment);

const INT4: Moments = (Moment::Int4, SecondMoment::Int4);

fn tensor((rows, cols): (usize, usize), (m_kind, v_kind): Moments, isa: Isa) -> Tensor {
    let g = GroupedShape::new(rows, cols, 64);
    let mut plan = Plan::default();
    let mut add = |bytes| plan.add("", Category::Scratch, bytes, Lifetime::ALWAYS);
    let bytes = |kind| if kind == Moment::Int4 { g.nibble_bytes() } else { g.padded_len() };
    let (v, v_scales) = v_kind.per_element().map_or((4 * rows, 0), |kind| (bytes(kind), 2 * g.groups()));
    let weight = Weight::place(g, WeightFormat::INT4, |_, bytes| add(bytes));
    let state = State {
        m_kind,
        v_kind,
        m: add(bytes(m_kind)),
        m_scales: add(2 * g.groups()),
        v: add(v),
        v_scales: add(v_scales),
        v_cols: add(if v_kind == SecondMoment::Factored { 4 * cols } else { 0 }),
        scalars: add(4 * SCALARS),
    };
    let mut cpu = Cpu::with_isa(isa);
    let features = rows.max(cols);
    let largest = Largest { tokens: 1, features, inputs: features, keys: 1, parameter: g.len(), head_dim: 2 };
    let (grad, scratch) = (add(4 * g.len()), add(cpu.scratch_bytes(&largest)));
    cpu.allocate(plan.total(), None, scratch).unwrap();
    let start = floats(1, g.len());
    fill(&mut cpu, &weight, &mut |row, out| out.copy_from_slice(&start[row * cols..][..cols]));
    cpu.upload(floats(2, g.len()).as_bytes(), grad);
    let param = Param { id: 0, decay: true, sparse: false, weight, state };
    let moved = grad.bytes + 2 * planes(&param).iter().map(|span| span.bytes).sum::<usize>();
    Tensor { cpu, param, grad, moved }
}

fn planes(param: &Param) -> [Span; 8] {
    let (w, s) = (param.weight, param.state);
    [w.data, w.scales, w.residue, s.m, s.m_scales, s.v, s.v_scales, s.v_cols]
}

fn step(number: u64) -> Step {
    Step::new(&Optimizer::default(), number, 1e-3, false, 1)
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
            tensor.cpu.optimizer_step(&tensor.param, tensor.grad, &step(number));
            assert_eq!(tensor.cpu.outcomes().skipped, 0);
        }
    }
    assert!(bytes(&fast) != before && bytes(&fast) == bytes(&slow), "instruction sets disagree");
    let Tensor { mut cpu, param, grad, moved } = fast;
    let mut number = 3;
    bencher.counter(ItemsCount::new(moved)).bench_local(|| {
        number += 1;
        cpu.optimizer_step(&param, grad, &step(number))
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

/// As many bytes as the int4 step moves, copied: half of them read, half written.
#[divan::bench(args = SHAPES)]
fn copy(bencher: Bencher, shape: (usize, usize)) {
    let moved = tensor(shape, INT4, Isa::best()).moved;
    let (from, mut to) = (vec![1u8; moved / 2], vec![0u8; moved / 2]);
    to.copy_from_slice(&from);
    assert_eq!(from, to);
    bencher.counter(ItemsCount::new(moved)).bench_local(|| divan::black_box(&mut to).copy_from_slice(&from));
}
