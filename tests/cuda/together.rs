//! Updates that are made at once: the bytes of one after the other, and fewer launches.

use crate::harness::gpu::{self, checked, emulator, open_all, required, set_order};
use crate::harness::interpreted;
use crate::harness::small::{batch, config, trainer};
use crate::harness::state::whole_state;
use crate::optimizer::{SHAPES, Storage, WEIGHTS, bytes, planes};
use std::collections::BTreeMap;
use tetrad::backend::adam::AdamArgs;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::prelude::*;
use tetrad::backend::{
    AdamUpdate, Backend, Compute, MaxShapes, Moment, Param, SecondMoment, State, UpdateStats, Weight,
};
use tetrad::config::Config;
use tetrad::memory::{ALIGN, Category, Lifetime, Place, Plan, Span};
use tetrad::model::{ActivationCheckpointing, GradBuffer, Offload, TableStorage, fill};
use tetrad::optim::{AdamFamily, AdamStepInfo, Groups, Optimizer, OptimizerConfig, ParamClass, ParamInfo, Rule};
use tetrad::optim::{StateConfig, StepInfo};
use tetrad::quant::{GroupedShape, RngKey, RngUse, StateSpec, WeightFormat};
use tetrad::train::Trainer;
use zerocopy::IntoBytes;

/// The tensors of a group, each with its gradient, in one arena; the backend's own part is last.
struct Tensors {
    params: Vec<Param>,
    grads: Vec<Span>,
    /// One number.
    loss: Span,
    own: usize,
    largest: MaxShapes,
}

impl Tensors {
    fn place(kinds: &[(GroupedShape, Storage)]) -> Self {
        let mut plan = Plan::default();
        let (mut params, mut grads) = (Vec::new(), Vec::new());
        for (id, &(g, storage)) in (5..).zip(kinds) {
            let mut add = |bytes| plan.add("", Category::Scratch, bytes, Lifetime::ALWAYS);
            let ((m, v), class) = (storage.moments, ParamClass::Matrix);
            let info = ParamInfo { class, shape: g, head_dim: 8 };
            let specs =
                AdamFamily::new(&OptimizerConfig::default(), StateConfig { m, v, feedback: false }).state(&info);
            let weight = Weight::place(g, storage.format, |_, bytes| add(bytes));
            let state = State::place(&specs, g, &mut |_, bytes| add(bytes));
            params.push(Param { id, group: 0, decay: !id.is_multiple_of(3), sparse: storage.sparse, weight, state });
            grads.push(add(4 * g.len()));
        }
        let most = |of: &dyn Fn(GroupedShape) -> usize| kinds.iter().map(|(g, _)| of(*g)).max().unwrap();
        let (inputs, parameter) = (most(&|g| g.cols), most(&|g| g.len()));
        let features = most(&|g| g.rows.max(g.cols));
        let compute = Compute::F32;
        let largest = MaxShapes { tokens: 1, features, inputs, keys: 1, parameter, head_dim: 2, prefix: 0, compute };
        let loss = plan.add("", Category::Scratch, 4, Lifetime::ALWAYS);
        Self { params, grads, loss, own: plan.total().next_multiple_of(ALIGN), largest }
    }

    fn allocate(&self, backend: &mut dyn Backend) {
        let bytes = backend.workspace_bytes(&self.largest);
        let own = Span { place: Place::Arena, offset: self.own, bytes };
        backend.allocate(self.own + bytes, None, own).unwrap();
    }

    fn initialize(&self, cpu: &mut Cpu) {
        for param in &self.params {
            let g = param.weight.shape;
            let mut start = vec![0.0; g.len()];
            RngKey { seed: 2, step: 0, tensor: param.id, usage: RngUse::Init }.normal(0, &mut start);
            fill(cpu, &param.weight, &mut |row, out| {
                out.iter_mut().zip(&start[row * g.cols..]).for_each(|(out, x)| *out = x * 0.02 + 0.003);
            });
        }
    }

    fn spans(&self) -> Vec<(String, Span)> {
        let mut spans = Vec::new();
        for param in &self.params {
            spans.extend(planes(param).into_iter().map(|(name, span)| (format!("{name} of {}", param.id), span)));
        }
        spans
    }

    fn updates(&self, args: &dyn Fn(&Param) -> AdamArgs) -> Vec<AdamUpdate> {
        let pairs = self.params.iter().zip(&self.grads);
        pairs.map(|(param, &grad)| AdamUpdate { param: *param, grad, args: args(param) }).collect()
    }
}

/// Spikes, zeros and rows of zeros; at step 3 one gradient of the group is not finite, at step 4 another is all zero.
fn gradient(param: &Param, number: u64) -> Vec<f32> {
    let g = param.weight.shape;
    let mut grad = vec![0.0; g.len()];
    if (number, param.id) == (4, 8) {
        return grad;
    }
    RngKey { seed: 7, step: number as u32, tensor: param.id, usage: RngUse::Init }.normal(0, &mut grad);
    for (i, x) in grad.iter_mut().enumerate() {
        *x *= [0.01, 0.0, 1e-9, 0.02][(i / 40 + number as usize) % 4];
    }
    if param.sparse {
        grad.chunks_exact_mut(g.cols).step_by(3).for_each(|row| row.fill(0.0));
    }
    let last = grad.len() - 1;
    grad[last] += 1.0;
    if (number, param.id) == (3, 7) {
        grad[last / 2] = f32::INFINITY;
    }
    grad
}

fn kinds(
    codes: &[(WeightFormat, Moment, SecondMoment, bool)],
    shapes: &[(usize, usize)],
) -> Vec<(GroupedShape, Storage)> {
    let of = |(i, &(format, m, v, sparse)): (usize, &(WeightFormat, Moment, SecondMoment, bool))| {
        let (rows, cols) = shapes[i % shapes.len()];
        let storage = Storage { format, moments: (m, v), sparse };
        (GroupedShape::new(rows, cols, [32, 64, 128][i / 3 % 3]), storage)
    };
    codes.iter().enumerate().map(of).collect()
}

/// Five steps on a CPU, one update after the other, and on all devices at once; `args` are those of a step of a tensor.
fn same_bytes(what: &str, kinds: &[(GroupedShape, Storage)], args: &dyn Fn(&Param, u64) -> AdamArgs) {
    let tensors = Tensors::place(kinds);
    let mut cpu = Cpu::new();
    tensors.allocate(&mut cpu);
    tensors.initialize(&mut cpu);
    let mut devices = open_all();
    for (order, (_, cuda)) in devices.iter_mut().enumerate() {
        set_order(order as u32);
        tensors.allocate(cuda);
        tensors.spans().iter().for_each(|(_, span)| cuda.upload(&bytes(&cpu, *span), *span));
    }
    let mut all = UpdateStats::default();
    for number in 1..=5 {
        let updates = tensors.updates(&|param| args(param, number));
        for AdamUpdate { param, grad, args } in &updates {
            let values = gradient(param, number);
            cpu.upload(values.as_bytes(), *grad);
            devices.iter_mut().for_each(|(_, cuda)| cuda.upload(values.as_bytes(), *grad));
            cpu.adam(param, *grad, args);
        }
        let wanted = cpu.update_stats();
        all.add(wanted);
        for (name, cuda) in &mut devices {
            cuda.adam_group(&updates);
            let found = cuda.update_stats();
            cuda.status().unwrap_or_else(|error| panic!("{what} on {name}: {error}"));
            assert_eq!(found.grad_sq.to_bits(), wanted.grad_sq.to_bits(), "{what} on {name}, step {number}");
            assert_eq!(found, wanted, "{what} on {name}, step {number}");
            for (plane, span) in tensors.spans() {
                assert!(bytes(&cpu, span) == bytes(cuda, span), "{what} on {name}, step {number}: {plane}");
            }
        }
    }
    set_order(0);
    assert!(all.skipped == 1 && all.rescales > 0, "{what}: {all:?}");
}

fn step(config: &OptimizerConfig, param: &Param, number: u64) -> AdamArgs {
    // At another rate for some, as adapters have.
    let lr = if param.id.is_multiple_of(4) { 0.5 * config.lr } else { config.lr };
    AdamStepInfo::new(config, number, lr, false, 3).args(param.decay)
}

/// More tensors than one launch has, of every storage, on shapes at the edges of blocks, groups and leaves; those whose second
/// moments are shared, and rows that are left out, among them.
#[test]
fn tensors_of_every_kind_become_what_one_after_the_other_does() {
    use {Moment as M, SecondMoment as V};
    let mut codes: Vec<_> = WEIGHTS.into_iter().map(|format| (format, M::Int4, V::Int4, false)).collect();
    codes.extend([(WeightFormat::INT4, M::Int8, V::F32, false), (WeightFormat::F32, M::F32, V::F32, false)]);
    codes.extend([(WeightFormat::INT4, M::Int4, V::Row, false), (WeightFormat::BF16, M::Int4, V::Int4, true)]);
    codes.extend([(WeightFormat::INT4, M::Int4, V::Factored, false), (WeightFormat::F32, M::F32, V::F32, false)]);
    codes.extend([(WeightFormat::INT4, M::Int4, V::Int4, false); 12]);
    let shapes: Vec<_> = SHAPES.into_iter().chain([(150, 333), (64, 256), (70, 128)]).collect();
    let base = OptimizerConfig { lr: 2e-3, weight_decay: 0.05, reset_interval: 4, ..OptimizerConfig::default() };
    same_bytes("Stable-SPAM", &kinds(&codes, &shapes), &|param, number| step(&base, param, number));
    let adamw = OptimizerConfig { name: Rule::Adamw, ..base.clone() };
    same_bytes("two rules", &kinds(&codes, &shapes), &|param, number| {
        step(if param.id % 5 < 2 { &adamw } else { &base }, param, number)
    });
}

/// What blocks have: matrices in the usual storage, and two gains.
#[test]
fn the_tensors_of_a_block_become_what_one_after_the_other_does() {
    use {Moment as M, SecondMoment as V};
    let matrix = (WeightFormat::INT4, M::Int4, V::Int4, false);
    let gain = (WeightFormat::F32, M::Int4, V::F32, false);
    let codes = [gain, matrix, matrix, matrix, matrix, gain, matrix, matrix, matrix];
    let shapes = [(1, 128), (128, 128), (64, 128), (64, 128), (128, 128), (1, 128), (352, 128), (352, 128), (128, 352)];
    let config = OptimizerConfig { lr: 2e-3, ..OptimizerConfig::default() };
    same_bytes("a block", &kinds(&codes, &shapes), &|param, number| step(&config, param, number));
}

/// A number that is not finite keeps everything as it is until the outcomes are asked for, and no longer.
#[test]
fn updates_are_held_by_a_number_that_is_not_finite() {
    use {Moment as M, SecondMoment as V};
    let matrix = (WeightFormat::INT4, M::Int4, V::Int4, false);
    let tensors = Tensors::place(&kinds(&[matrix, (WeightFormat::F32, M::F32, V::F32, false)], &[(9, 172), (3, 32)]));
    let mut cpu = Cpu::new();
    tensors.allocate(&mut cpu);
    tensors.initialize(&mut cpu);
    let config = OptimizerConfig::default();
    let updates = tensors.updates(&|param| step(&config, param, 1));
    let mut backends: Vec<(String, Box<dyn Backend>)> = vec![("CPU".into(), Box::new(Cpu::new()))];
    backends.extend(open_all().into_iter().map(|(name, cuda)| (name, Box::new(cuda) as Box<dyn Backend>)));
    for (name, backend) in &mut backends {
        tensors.allocate(backend.as_mut());
        tensors.spans().iter().for_each(|(_, span)| backend.upload(&bytes(&cpu, *span), *span));
        let state = |backend: &dyn Backend| -> Vec<_> {
            tensors.spans().iter().map(|(_, span)| bytes(backend, *span)).collect()
        };
        let at = StepInfo { number: 1, lr: 0.1, seed: 1 };
        for (number, held) in [(f32::NAN, true), (1.5, false), (f32::NEG_INFINITY, true), (-3e38, false)] {
            backend.upload(number.as_bytes(), tensors.loss);
            let before = state(backend.as_ref());
            for update in &updates {
                backend.upload(gradient(&update.param, 1).as_bytes(), update.grad);
            }
            backend.hold_updates_unless_finite(tensors.loss);
            backend.adam_group(&updates);
            // A rule that is made of other operations, on what is not packed.
            let AdamUpdate { param, grad, .. } = &updates[1];
            backend.begin_update(*grad, false);
            let m = param.state.tensors().next().expect("a first moment");
            backend.momentum(param, m, *grad, &at.momentum());
            backend.apply_update(param, *grad, &tetrad::backend::UpdateArgs { lr: 0.1, ..at.update() });
            assert_eq!(before == state(backend.as_ref()), held, "{name}: {number}");
            let stats = backend.update_stats();
            assert_eq!(stats == UpdateStats::default(), held, "{name}: {number}: {stats:?}");
            backend.status().unwrap();
        }
    }
}

/// The same rule, of which nobody is told that it is one operation.
struct Singly(AdamFamily);

impl Optimizer for Singly {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        self.0.state(param)
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, workspace: Span, at: &StepInfo) {
        self.0.step(backend, param, grad, workspace, at);
    }
}

/// A trainer whose updates are made one after the other, and whose loss is read before them.
fn singly(config: &Config) -> Trainer {
    let rule = Singly(AdamFamily::new(&config.optimizer, config.storage.state()));
    let mut trainer = Trainer::with_rules(config, Groups::one(Box::new(rule)), Box::new(gpu::open())).unwrap();
    trainer.initialize();
    trainer
}

/// A trainer that was rehearsed, so that there are graphs.
fn rehearsed(config: &Config) -> Trainer {
    let mut trainer = trainer(config, Box::new(gpu::open()));
    trainer.rehearse().unwrap();
    trainer
}

/// Graphs that were launched on the emulated driver.
fn emulated_graphs() -> u64 {
    if required() { 0 } else { emulator().counts().get("graph").copied().unwrap_or(0) }
}

/// What makes a variant of the configuration.
type Edit = fn(&mut Config);

/// Whole steps, one of them with a loss that is not finite, one with a gradient that is not; with graphs, and without.
#[test]
fn steps_end_in_the_bytes_of_one_update_after_the_other() {
    let edits: [(&str, Edit); 8] = [
        ("default", |_| {}),
        ("biases, packed tables, AdamW, recomputed", |config| {
            (config.model.qkv_bias, config.optimizer.name) = (true, Rule::Adamw);
            (config.storage.embedding, config.storage.head) = (TableStorage::Int4, TableStorage::Int8);
            config.run.activation_checkpointing = ActivationCheckpointing::Block;
        }),
        ("tied, shared second moments", |config| {
            (config.model.tied, config.storage.v) = (true, SecondMoment::Row);
        }),
        ("all fetched, micro-batches", |config| {
            (config.offload.weights, config.offload.optimizer) = (Offload::Host, Offload::Host);
            (config.train.micro_batch, config.run.grad_buffer) = (1, GradBuffer::Block);
        }),
        ("state fetched, a tensor's gradient", |config| {
            config.offload.optimizer = Offload::Host;
            (config.train.micro_batch, config.run.grad_buffer) = (2, GradBuffer::Tensor);
        }),
        // Which are rounded with other random numbers in each step.
        ("inputs in four bits", |config| config.run.activation_checkpointing = ActivationCheckpointing::BlockInt4),
        ("clipped", |config| config.optimizer.grad_clip = 0.1),
        ("watched", |config| (config.train.spike_z, config.train.spike_window) = (6.0, 2)),
    ];
    // Interpreted, kernels take long; those of the others are the same.
    let some = if interpreted::wanted() { 2 } else { edits.len() };
    for (name, edit) in edits.into_iter().take(some) {
        let mut config = config();
        edit(&mut config);
        let run = |mut trainer: Trainer| {
            let gain = trainer.model().stored.iter().rev().find(|param| param.weight.format == WeightFormat::F32);
            let gain = gain.expect("norms have gains").weight.data;
            let mut reports = Vec::new();
            for number in 0..5 {
                let (inputs, targets) = batch(number);
                let kept = bytes(trainer.backend(), gain);
                if number == 2 {
                    trainer.backend_mut().upload(f32::NAN.as_bytes(), gain.head(4));
                }
                // As text, in which what is no number is the same as itself, and other numbers are whole.
                reports.push(format!("{:?}", trainer.step(&inputs, &targets)));
                if number == 2 {
                    trainer.backend_mut().upload(&kept, gain);
                }
                trainer.status().unwrap();
            }
            (reports, trainer.counters(), whole_state(&trainer))
        };
        let rehearsed = rehearsed(&config);
        let graphs = emulated_graphs();
        let now = run(rehearsed);
        // Forward at least is one in each step, where they can be counted.
        assert!(required() || emulated_graphs() >= graphs + 5, "{name}: {} graphs", emulated_graphs() - graphs);
        let before = run(singly(&config));
        assert_eq!(now.0, before.0, "{name}: reports");
        assert_eq!((now.1, now.1.skipped_losses), (before.1, 1), "{name}: counters");
        assert!(now.2 == before.2, "{name}: weights and state");
    }
}

/// Whatever a driver cannot capture, and however much of it was captured before: a run does without graphs.
#[test]
fn what_cannot_be_a_graph_is_launched_without() {
    if required() || interpreted::wanted() {
        return;
    }
    let config = config();
    let run = |mut trainer: Trainer| {
        let graphs = emulated_graphs();
        let losses: Vec<_> = (0..2).map(|i| trainer.step(&batch(i).0, &batch(i).1).loss.to_bits()).collect();
        trainer.status().unwrap();
        (losses, whole_state(&trainer), emulated_graphs() - graphs)
    };
    let expected = run(trainer(&config, Box::new(gpu::open())));
    for most in [0, 1, 20] {
        emulator().set_most_captured(most);
        let trainer = rehearsed(&config);
        emulator().set_most_captured(u64::MAX);
        assert!(run(trainer) == expected, "graphs of at most {most} operations");
    }
}

/// What a launch is a part of.
fn part(kernel: &str) -> &'static str {
    let begins = |names: &[&str]| names.iter().any(|name| kernel.starts_with(name));
    match kernel {
        "product" => "products",
        "graph" => "graphs",
        "copy to the device" | "copy to the host" | "copy on the device" | "fill" => "copies and fills",
        _ if begins(&["optimizer"]) => "optimizer",
        _ if begins(&["attention"]) => "attention",
        _ if begins(&["dequantize"]) => "products",
        _ => "elementwise",
    }
}

/// What the third of three steps gives to the stream, by part, and how often it waits.
fn launches(mut trainer: Trainer) -> (BTreeMap<&'static str, u64>, u64) {
    let (tokens, targets) = (vec![1; TOKENS], vec![2; TOKENS]);
    let mut step = || {
        let (before, waits) = (emulator().counts(), emulator().waits());
        checked(false, || trainer.step(&tokens, &targets));
        let mut parts = BTreeMap::new();
        for (kernel, count) in emulator().counts() {
            *parts.entry(part(&kernel)).or_default() += count - before.get(&kernel).copied().unwrap_or(0);
        }
        (parts, emulator().waits() - waits)
    };
    step();
    step();
    step()
}

/// More than are multiplied without cuBLASLt.
const TOKENS: usize = 16;

/// The layout of a preset, on which the number of launches depends, with narrow rows, few tokens, and one head of as many
/// elements as the preset's heads have.
fn layout(name: &str, intermediate: usize) -> Config {
    let mut config = Config::preset(name).unwrap();
    let model = &mut config.model;
    assert_eq!(model.head_dim(), 64);
    (model.hidden, model.intermediate, model.heads, model.kv_heads) = (64, intermediate, 1, 1);
    (model.vocab, config.train.batch, config.train.sequence) = (4096, 1, TOKENS);
    config
}

/// The table of docs/gpu-counted.md. Widths matter as far as rows are whole groups, which those of `down` are in no preset, and
/// whole pieces of 16 bytes, which they are not in 1b.
#[test]
fn launches_of_a_step_are_as_few_as_the_documentation_says() {
    // What there is to count with, and once.
    if required() || interpreted::wanted() {
        return;
    }
    let parts = ["products", "elementwise", "attention", "optimizer", "copies and fills", "graphs"];
    let found = [("60m", 96), ("1b", 93)].map(|(name, intermediate)| {
        let config = layout(name, intermediate);
        let (apart, most) = launches(singly(&config));
        let (together, waits) = launches(trainer(&config, Box::new(gpu::open())));
        let (graphs, with_graphs) = launches(rehearsed(&config));
        assert!(waits <= most && with_graphs == waits, "{name}: {waits} waits of {most}, with graphs {with_graphs}");
        [apart, together, graphs].map(|counts| parts.map(|part| counts.get(part).copied().unwrap_or(0)))
    });
    let expected = [
        [[235, 86, 16, 300, 7, 0], [235, 86, 16, 61, 7, 0], [0, 0, 0, 61, 4, 12]],
        [[699, 342, 48, 876, 103, 0], [699, 342, 48, 157, 103, 0], [0, 0, 0, 157, 4, 29]],
    ];
    assert_eq!(found, expected, "60m and 1b, updates apart, together, and with graphs: {parts:?}");
}
