//! The optimizer step on a GPU, the emulated one included, gives the bytes of the step on a CPU.

use crate::harness::gpu::{checked, open_all, set_order};
use tetrad::backend::adam::AdamArgs;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::cuda::{Cuda, Gpu};
use tetrad::backend::prelude::*;
use tetrad::backend::{Backend, Compute, MaxShapes, Moment, Param, SecondMoment, State, UpdateStats, Weight};
use tetrad::memory::{ALIGN, Category, Lifetime, Place, Plan, Span};
use tetrad::model::fill;
use tetrad::optim::{AdamFamily, AdamStepInfo, Optimizer, OptimizerConfig, ParamClass, ParamInfo};
use tetrad::optim::{Rule, StateConfig, Variant};
use tetrad::quant::{GroupedShape, RngKey, RngUse, Simulation, StateSpec, WeightCodec, WeightFormat, set_nibble};
use zerocopy::IntoBytes;

/// How one parameter is stored.
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    pub format: WeightFormat,
    pub moments: (Moment, SecondMoment),
    pub sparse: bool,
}

pub const WEIGHTS: [WeightFormat; 10] = [
    WeightFormat::INT4,
    WeightFormat::INT4_OFFSET,
    WeightFormat::BF16,
    WeightFormat::INT8,
    WeightFormat::F32,
    WeightFormat::of(WeightCodec::Int4),
    WeightFormat::of(WeightCodec::Int4Offset),
    WeightFormat::simulated(Simulation::Int4Rows { offsets: true }),
    WeightFormat::FP4,
    WeightFormat::of(WeightCodec::Fp4),
];

pub const MOMENTS: [Moment; 3] = [Moment::Int4, Moment::Int8, Moment::F32];

const SECOND_MOMENTS: [SecondMoment; 5] =
    [SecondMoment::Int4, SecondMoment::Int8, SecondMoment::F32, SecondMoment::Row, SecondMoment::Factored];

/// The plan of one parameter, the same for both backends but for what each needs itself, which is last.
pub struct Placed {
    pub param: Param,
    pub grad: Span,
    pub workspace: Span,
    own: usize,
    largest: MaxShapes,
}

impl Placed {
    /// Gives a backend the memory of the plan, and says where its own part of it is.
    pub fn allocate(&self, backend: &mut dyn Backend) -> Span {
        let bytes = backend.workspace_bytes(&self.largest);
        let own = Span { place: Place::Arena, offset: self.own, bytes };
        backend.allocate(self.own + bytes, None, own).unwrap();
        own
    }
}

fn place(g: GroupedShape, s: Storage, decay: bool) -> Placed {
    let (m, v) = s.moments;
    let info = ParamInfo { class: ParamClass::Matrix, shape: g, head_dim: 8 };
    let specs = AdamFamily::new(&OptimizerConfig::default(), StateConfig { m, v, feedback: false }).state(&info);
    place_state(g, s, decay, &specs, 0)
}

/// The same with the state that a rule declared, and with as many numbers of workspace as it asked for.
pub fn place_state(g: GroupedShape, s: Storage, decay: bool, specs: &[StateSpec], workspace: usize) -> Placed {
    let mut plan = Plan::default();
    let mut add = |bytes| plan.add("", Category::Scratch, bytes, Lifetime::ALWAYS);
    let weight = Weight::place(g, s.format, |_, bytes| add(bytes));
    let state = State::place(specs, g, &mut |_, bytes| add(bytes));
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
    let (grad, workspace) = (add(4 * g.len()), add(4 * workspace));
    let param = Param { id: 3, group: 0, decay, sparse: s.sparse, weight, state };
    Placed { param, grad, workspace, own: plan.total().next_multiple_of(ALIGN), largest }
}

pub fn planes(param: &Param) -> Vec<(String, Span)> {
    let w = param.weight;
    let names = ["data", "scales", "offsets", "residue"].map(String::from);
    let mut planes: Vec<_> = names.into_iter().zip([w.data, w.scales, w.offsets, w.residue]).collect();
    for tensor in param.state.tensors() {
        let name = tensor.spec.name;
        planes.extend([(name.to_owned(), tensor.data), (format!("{name} scales"), tensor.scales)]);
    }
    planes.retain(|(_, span)| !span.is_none());
    planes
}

pub fn bytes(backend: &dyn Backend, span: Span) -> Vec<u8> {
    let mut bytes = vec![0; span.bytes];
    backend.download(span, &mut bytes);
    bytes
}

fn downloaded(cuda: &Cuda, span: Span) -> Vec<u8> {
    let mut bytes = vec![0; span.bytes];
    cuda.download(span, &mut bytes);
    bytes
}

pub fn gradient(g: GroupedShape, seed: u64, number: u64) -> Vec<f32> {
    let mut grad = vec![0.0; g.len()];
    if number == 5 {
        return grad;
    }
    RngKey { seed, step: number as u32, tensor: 9, usage: RngUse::Init }.normal(0, &mut grad);
    // Magnitudes of many kinds: zeros, some too small for the fast formula, a spike.
    for (i, x) in grad.iter_mut().enumerate() {
        *x *= match (i / 40 + number as usize) % 11 {
            0 => 0.0,
            1 => 1e-9,
            2 => 1e-22,
            _ => 0.01,
        };
    }
    let at = number as usize * 7 % grad.len();
    grad[at] *= 300.0;
    if number == 6 {
        let bad = [f32::NAN, f32::INFINITY, 3e38][seed as usize % 3];
        grad[g.len() / 2] = bad;
    }
    grad
}

fn rule(index: usize) -> OptimizerConfig {
    let base = OptimizerConfig { lr: 2e-3, weight_decay: 0.05, reset_interval: 4, ..OptimizerConfig::default() };
    match index {
        0 => OptimizerConfig { weight_decay: 0.0, ..base },
        1 => base,
        2 => OptimizerConfig { variant: Variant::Reference, momentum_decay: 10, ..base },
        3 => OptimizerConfig {
            name: Rule::Spam,
            spike_quiet: 2,
            spike_threshold: 3.0,
            reset_warmup: 2,
            density: 0.7,
            ..base
        },
        4 => OptimizerConfig { name: Rule::Adamw, weight_decay: 0.0, ..base },
        5 => OptimizerConfig { name: Rule::Spam, spike_quiet: 2, spike_threshold: 3.0, reset_warmup: 2, ..base },
        6 => OptimizerConfig { name: Rule::Adamw, ..base },
        7 => OptimizerConfig { name: Rule::Adam, weight_decay: 0.0, ..base },
        _ => OptimizerConfig { name: Rule::Adam, ..base },
    }
}

/// Whether the configuration allows the rule with this second moment: none that looks at an element's own, or takes the
/// weight into the gradient.
fn is_allowed(which: usize, v: SecondMoment) -> bool {
    let config = rule(which);
    let mixes = config.name == Rule::Adam && config.weight_decay > 0.0;
    v.per_element().is_some() || !(config.name == Rule::Spam || mixes)
}

/// One parameter's steps on the CPU: what every plane holds before and after each, and the outcomes.
struct Recorded {
    placed: Placed,
    states: Vec<Vec<Vec<u8>>>,
    outcomes: Vec<UpdateStats>,
    grads: Vec<Vec<f32>>,
    steps: Vec<AdamArgs>,
}

fn record(
    g: GroupedShape,
    storage: Storage,
    config: &OptimizerConfig,
    feedback: bool,
    seed: u64,
    steps: u64,
) -> Recorded {
    let placed = place(g, storage, seed % 5 != 4);
    let mut cpu = Cpu::new();
    placed.allocate(&mut cpu);
    let mut start = vec![0.0; g.len()];
    RngKey { seed, step: 0, tensor: 0, usage: RngUse::Init }.normal(0, &mut start);
    fill(&mut cpu, &placed.param.weight, &mut |row, out| {
        for (out, x) in out.iter_mut().zip(&start[row * g.cols..]) {
            *out = x * 0.02 + 0.003;
        }
    });
    if storage.format.codec().is_int4() && seed % 2 == 1 {
        // As groups that came from another program may have them.
        let mut scales = bytes(&cpu, placed.param.weight.scales);
        scales.chunks_exact_mut(2).step_by(3).for_each(|scale| scale[1] ^= 0x80);
        cpu.upload(&scales, placed.param.weight.scales);
        let mut codes = bytes(&cpu, placed.param.weight.data);
        (0..g.groups()).step_by(2).for_each(|group| set_nibble(&mut codes, group * g.group, 0));
        cpu.upload(&codes, placed.param.weight.data);
    }
    let all = |cpu: &Cpu| planes(&placed.param).into_iter().map(|(_, span)| bytes(cpu, span)).collect::<Vec<_>>();
    let mut recorded = Recorded { states: vec![all(&cpu)], outcomes: vec![], grads: vec![], steps: vec![], placed };
    for number in 1..=steps {
        let mut grad = gradient(g, seed, number);
        if storage.sparse {
            // Rows of zeros of both signs.
            let absent =
                grad.chunks_exact_mut(g.cols).enumerate().filter(|(i, _)| (i + number as usize).is_multiple_of(3));
            absent.for_each(|(i, row)| row.fill(if i % 2 == 0 { 0.0 } else { -0.0 }));
        }
        let lr = if number == 3 { 0.1 } else { config.lr };
        let step = AdamStepInfo::new(config, number, lr, feedback, seed).args(recorded.placed.param.decay);
        cpu.upload(grad.as_bytes(), recorded.placed.grad);
        cpu.adam(&recorded.placed.param, recorded.placed.grad, &step);
        recorded.outcomes.push(cpu.update_stats());
        recorded.states.push(planes(&recorded.placed.param).into_iter().map(|(_, span)| bytes(&cpu, span)).collect());
        recorded.grads.push(grad);
        recorded.steps.push(step);
    }
    recorded
}

/// The same steps on a GPU; `what` names the case in messages.
fn replay(cuda: &mut Cuda, recorded: &Recorded, what: &str) {
    let Recorded { placed, states, .. } = recorded;
    let own = placed.allocate(cuda);
    // What an earlier operation may have left.
    let scratch = own.part(Gpu::OWN_BYTES, own.bytes - Gpu::OWN_BYTES);
    cuda.upload(&vec![0xff; scratch.bytes], scratch);
    for ((_, span), bytes) in planes(&placed.param).iter().zip(&states[0]) {
        cuda.upload(bytes, *span);
    }
    for (i, step) in recorded.steps.iter().enumerate() {
        cuda.upload(recorded.grads[i].as_bytes(), placed.grad);
        // The second, third and seventh launch what others did: accesses are checked in those.
        checked(![1, 2, 6].contains(&i), || cuda.adam(&placed.param, placed.grad, step));
        let outcomes = cuda.update_stats();
        cuda.status().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(outcomes.grad_sq.to_bits(), recorded.outcomes[i].grad_sq.to_bits(), "{what}: step {}", i + 1);
        assert_eq!(outcomes, recorded.outcomes[i], "{what}: step {}", i + 1);
        for ((name, span), wanted) in planes(&placed.param).iter().zip(&states[i + 1]) {
            let found = downloaded(cuda, *span);
            if let Some(at) = (0..found.len()).find(|&at| found[at] != wanted[at]) {
                let end = (at / 4 * 4 + 8).min(found.len());
                let (a, b) = (&found[at / 4 * 4..end], &wanted[at / 4 * 4..end]);
                panic!("{what}: step {}: byte {at} of {name} is {a:02x?}, on the CPU {b:02x?}", i + 1);
            }
        }
    }
}

pub const SHAPES: [(usize, usize); 10] =
    [(1, 1), (1, 33), (3, 32), (5, 95), (7, 257), (4, 256), (2, 1100), (1, 2048), (9, 172), (33, 64)];

/// Every storage with a third of the rules, on shapes at the edges of runs, groups, rows and warps.
#[test]
fn every_storage_and_rule_gives_the_cpus_bytes() {
    let mut devices = open_all();
    let mut case = 0usize;
    let mut rescales = 0;
    for (k, format) in WEIGHTS.into_iter().enumerate() {
        for (i, m) in MOMENTS.into_iter().enumerate() {
            for (j, v) in SECOND_MOMENTS.into_iter().enumerate() {
                // Each weight, each first and each second moment meets every rule.
                for which in (0..9).filter(|which| (which + i + j + k) % 3 == 0 && is_allowed(*which, v)) {
                    // Not every shape with every storage: all pairs come up as the case counts on.
                    let (rows, cols) = SHAPES[case % SHAPES.len()];
                    let group = [32, 64, 128, 256][case / 3 % 4];
                    let sparse = case % 4 == 1 && v != SecondMoment::Factored;
                    let storage = Storage { format, moments: (m, v), sparse };
                    let feedback = case % 3 == 1;
                    let g = GroupedShape::new(rows, cols, group);
                    let recorded = record(g, storage, &rule(which), feedback, case as u64, 7);
                    rescales += recorded.outcomes.iter().map(|outcome| outcome.rescales).sum::<u64>();
                    set_order((case % 7) as u32);
                    for (name, cuda) in &mut devices {
                        let what = format!("{name}, case {case}: {rows}x{cols}/{group} {storage:?} rule {which}");
                        replay(cuda, &recorded, &what);
                    }
                    case += 1;
                }
            }
        }
    }
    assert!(rescales > 1000, "only {rescales} groups were rescaled");
}

/// Several leaves, several blocks; the same bytes whatever order the threads of a block run in.
#[test]
fn tensors_of_many_leaves_in_every_order() {
    let mut devices = open_all();
    for (i, (rows, cols)) in [(150, 333), (64, 256), (161, 512), (20, 8200)].into_iter().enumerate() {
        for (j, format) in WEIGHTS.into_iter().enumerate() {
            let moments = (MOMENTS[(i + j) % 2], SECOND_MOMENTS[(i + j) % 5]);
            let storage = Storage { format, moments, sparse: (i + j) % 5 == 3 };
            let g = GroupedShape::new(rows, cols, [64, 128, 256, 32][(i + j) % 4]);
            let recorded = record(g, storage, &rule([0, 1, 4][j / 4]), false, j as u64, 3);
            // All orders where most parameters of most runs are, one for every other storage.
            let orders: &[u32] = if j == 0 { &[0, 1, 6] } else { &[[0, 1, 6][(i + j) % 3]] };
            for &order in orders {
                set_order(order);
                for (name, cuda) in &mut devices {
                    replay(cuda, &recorded, &format!("{name}: {rows}x{cols} {storage:?} order {order}"));
                }
            }
        }
    }
}

/// What most parameters of most runs are: symmetric codes with residue, compact moments, rows of whole groups, a rule
/// without decay. Tensors end inside a block and inside a warp.
#[test]
fn rows_of_whole_groups_in_the_usual_storage() {
    let mut devices = open_all();
    let usual = |m, v| Storage { format: WeightFormat::INT4, moments: (m, v), sparse: false };
    for (i, (rows, cols, group)) in
        [(1, 32, 32), (3, 64, 64), (5, 256, 128), (9, 512, 256), (33, 96, 32), (70, 128, 64), (40, 640, 128)]
            .into_iter()
            .enumerate()
    {
        let moments = [
            (Moment::Int4, SecondMoment::Int4),
            (Moment::Int8, SecondMoment::Int8),
            (Moment::Int4, SecondMoment::Row),
            (Moment::Int4, SecondMoment::Factored),
        ];
        for (j, (m, v)) in moments.into_iter().enumerate() {
            for which in [0, 1, 4] {
                let g = GroupedShape::new(rows, cols, group);
                let recorded = record(g, usual(m, v), &rule(which), false, (4 * i + j + which) as u64, 7);
                let order = [0, 1, 2, 6][(i + j + which) % 4];
                set_order(order);
                for (name, cuda) in &mut devices {
                    replay(cuda, &recorded, &format!("{name}: {g:?}, {m:?} {v:?}, rule {which}, order {order}"));
                }
            }
        }
    }
}

/// More leaves than one round of the verdict folds.
#[test]
fn sums_of_more_leaves_than_a_block_has_threads() {
    let storage = Storage { format: WeightFormat::INT4, moments: (Moment::Int4, SecondMoment::Int4), sparse: false };
    let recorded = record(GroupedShape::new(1026, 16384, 128), storage, &rule(0), false, 3, 1);
    set_order(0);
    for (name, cuda) in &mut open_all() {
        replay(cuda, &recorded, &format!("{name}: 1026 leaves"));
    }
}

/// One question for several updates, one of them skipped.
#[test]
fn outcomes_of_several_updates_are_added_in_their_order() {
    let storage = Storage { format: WeightFormat::INT8, moments: (Moment::Int8, SecondMoment::Int4), sparse: false };
    let recorded = record(GroupedShape::new(3, 333, 64), storage, &rule(0), false, 1, 7);
    let mut wanted = UpdateStats::default();
    recorded.outcomes.iter().for_each(|outcome| wanted.add(*outcome));
    assert!(wanted.skipped == 1 && wanted.rescales > 0);
    for (name, cuda) in &mut open_all() {
        let Recorded { placed, states, .. } = &recorded;
        placed.allocate(cuda);
        for ((_, span), bytes) in planes(&placed.param).iter().zip(&states[0]) {
            cuda.upload(bytes, *span);
        }
        for (grad, step) in recorded.grads.iter().zip(&recorded.steps) {
            cuda.upload(grad.as_bytes(), placed.grad);
            cuda.adam(&placed.param, placed.grad, step);
        }
        assert_eq!(cuda.update_stats(), wanted, "{name}");
        assert_eq!(cuda.update_stats(), UpdateStats::default(), "{name}: asked again");
        cuda.status().unwrap();
    }
}
