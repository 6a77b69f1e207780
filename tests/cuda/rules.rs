//! Rules beside Adam's family on a GPU, the emulated one included: the bytes of a CPU, for every storage.

use super::optimizer::{MOMENTS, Placed, SHAPES, Storage, WEIGHTS, bytes, gradient, place_state, planes};
use crate::harness::gpu::{open_all, set_order};
use tetrad::backend::cpu::Cpu;
use tetrad::backend::cuda::Cuda;
use tetrad::backend::prelude::*;
use tetrad::backend::{Backend, Moment, SecondMoment, UpdateStats};
use tetrad::model::fill;
use tetrad::optim::{AdjustLr, Groups, OptimizerConfig, ParamClass, ParamInfo, Rule, StateConfig, StepInfo, Variant};
use tetrad::quant::{GroupedShape, RngKey, RngUse};
use zerocopy::IntoBytes;

/// The rules, and the classes of parameters that they treat differently.
fn rules() -> Vec<(OptimizerConfig, ParamClass)> {
    let of = |rule| OptimizerConfig { weight_decay: 0.05, lr: 2e-3, ..OptimizerConfig::of(rule) };
    let (sgd, lion, scale, muon) = (of(Rule::Sgd), of(Rule::Lion), of(Rule::Scale), of(Rule::Muon));
    vec![
        (OptimizerConfig { momentum: 0.0, ..sgd.clone() }, ParamClass::Matrix),
        (sgd.clone(), ParamClass::Matrix),
        (OptimizerConfig { nesterov: true, variant: Variant::Reference, ..sgd }, ParamClass::Matrix),
        (lion, ParamClass::Matrix),
        (scale.clone(), ParamClass::Matrix),
        (scale.clone(), ParamClass::Head),
        (OptimizerConfig { variant: Variant::Paper, ..scale }, ParamClass::Embedding),
        (OptimizerConfig { ns_steps: 1, ..muon.clone() }, ParamClass::Matrix),
        (muon.clone(), ParamClass::Embedding),
        (
            OptimizerConfig { variant: Variant::Reference, adjust_lr: AdjustLr::MatchRmsAdamw, ns_steps: 2, ..muon },
            ParamClass::Matrix,
        ),
    ]
}

/// Steps of one parameter on a backend, whose planes hold `first` unless that is empty; gives the planes and the
/// statistics after each step.
fn run(
    backend: &mut dyn Backend,
    groups: &Groups,
    placed: &Placed,
    first: &[Vec<u8>],
    grads: &[Vec<f32>],
) -> Vec<(UpdateStats, Vec<Vec<u8>>)> {
    let spans = planes(&placed.param);
    let mut steps = Vec::new();
    spans.iter().zip(first).for_each(|((_, span), bytes)| backend.upload(bytes, *span));
    for (number, grad) in (1..).zip(grads) {
        backend.upload(grad.as_bytes(), placed.grad);
        let at = StepInfo { number, lr: if number == 3 { 0.1 } else { 2e-3 }, seed: 7 };
        groups.step(backend, &placed.param, placed.grad, placed.workspace, &at);
        let stats = backend.update_stats();
        steps.push((stats, spans.iter().map(|(_, span)| bytes(backend, *span)).collect()));
    }
    steps
}

#[test]
fn every_storage_and_rule_gives_the_cpus_bytes() {
    let mut devices = open_all();
    let (mut case, mut rescales) = (0usize, 0);
    // All iterations of Muon's products once: how the weight is stored does not matter to them.
    let storage = Storage { format: WEIGHTS[0], moments: (MOMENTS[0], SecondMoment::F32), sparse: false };
    compare(&mut devices, 4, storage, &OptimizerConfig::of(Rule::Muon), ParamClass::Matrix);
    for (i, format) in WEIGHTS.into_iter().enumerate() {
        for (j, (config, class)) in rules().into_iter().enumerate() {
            // Each rule meets every format and every kind of momentum.
            let m = MOMENTS[(i + j) % MOMENTS.len()];
            let storage = Storage { format, moments: (m, SecondMoment::F32), sparse: false };
            rescales += compare(&mut devices, case, storage, &config, class);
            case += 1;
        }
    }
    assert!(rescales > 30, "only {rescales} groups were rescaled");
}

/// Rules whose second moments are shared, and those of low rank, by the classes that they treat differently.
fn shared_and_projected() -> Vec<(OptimizerConfig, ParamClass)> {
    let of = |rule| OptimizerConfig { weight_decay: 0.05, ..OptimizerConfig::of(rule) };
    let (mini, galore, apollo) = (of(Rule::AdamMini), of(Rule::Galore), of(Rule::Apollo));
    vec![
        (mini.clone(), ParamClass::QueryOrKey),
        (mini.clone(), ParamClass::Head),
        (mini.clone(), ParamClass::Norm),
        (OptimizerConfig { variant: Variant::Reference, ..mini }, ParamClass::Bias),
        (of(Rule::Adafactor), ParamClass::Matrix),
        (of(Rule::Adafactor), ParamClass::Norm),
        (galore.clone(), ParamClass::Matrix),
        (galore.clone(), ParamClass::Embedding),
        (OptimizerConfig { projection: Moment::Int4, variant: Variant::Paper, ..galore }, ParamClass::Matrix),
        (OptimizerConfig { projection: Moment::Int8, ..of(Rule::Fira) }, ParamClass::Matrix),
        (OptimizerConfig { variant: Variant::Reference, ..of(Rule::Fira) }, ParamClass::QueryOrKey),
        (apollo.clone(), ParamClass::Matrix),
        (OptimizerConfig { variant: Variant::Paper, scale_front: true, ..apollo }, ParamClass::Matrix),
        (of(Rule::ApolloMini), ParamClass::Matrix),
    ]
}

/// Three storages of the weight and all of the moments; refreshes meet gradients of all kinds.
#[test]
fn shared_moments_and_projections_give_the_cpus_bytes() {
    let mut devices = open_all();
    let mut case = 0usize;
    let v = [SecondMoment::Int4, SecondMoment::Int8, SecondMoment::F32];
    for (i, format) in [WEIGHTS[0], WEIGHTS[2], WEIGHTS[4]].into_iter().enumerate() {
        for (j, (config, class)) in shared_and_projected().into_iter().enumerate() {
            let moments = (MOMENTS[(i + j) % 3], v[(i + j / 2) % 3]);
            let (rows, cols) = SHAPES[case % SHAPES.len()];
            let rank = config.rank.min(3).min(rows.min(cols) as u64);
            // Steps 5 and 6 have a gradient of zeros, and one that is not finite.
            let gap = if config.name.reads("update_proj_gap") { [3, 4, 5][case / 2 % 3] } else { 0 };
            let config = OptimizerConfig { rank, update_proj_gap: gap, ..config };
            compare(&mut devices, case, Storage { format, moments, sparse: false }, &config, class);
            case += 1;
        }
    }
}

/// Seven steps of a rule on a parameter that is stored so, on every device and the CPU; gives the number of groups that
/// were rescaled.
fn compare(
    devices: &mut [(String, Cuda)],
    case: usize,
    storage: Storage,
    config: &OptimizerConfig,
    class: ParamClass,
) -> u64 {
    let (rows, cols) = SHAPES[case % SHAPES.len()];
    let rows = if class.is_vector() { 1 } else { rows };
    let g = GroupedShape::new(rows, cols, [32, 64, 128, 256][case / 3 % 4]);
    let (m, v) = storage.moments;
    let groups = config.groups(StateConfig { m, v, feedback: false });
    let info = ParamInfo { class, shape: g, head_dim: 8 };
    let (group, state) = groups.declare(&info);
    let mut placed = place_state(g, storage, case % 5 != 4, &state, groups.workspace(&info));
    placed.param.group = group;
    let grads: Vec<_> = (1..=7).map(|number| gradient(g, case as u64, number)).collect();

    let mut cpu = Cpu::new();
    placed.allocate(&mut cpu);
    let mut start = vec![0.0; g.len()];
    RngKey { seed: case as u64, step: 0, tensor: 0, usage: RngUse::Init }.normal(0, &mut start);
    fill(&mut cpu, &placed.param.weight, &mut |row, out| {
        out.iter_mut().zip(&start[row * g.cols..]).for_each(|(out, x)| *out = x * 0.02 + 0.003);
    });
    for tensor in placed.param.state.tensors() {
        cpu.upload(&vec![tensor.spec.format.codec.zero_byte(); tensor.data.bytes], tensor.data);
    }
    let first: Vec<_> = planes(&placed.param).iter().map(|(_, span)| bytes(&cpu, *span)).collect();
    let wanted = run(&mut cpu, &groups, &placed, &[], &grads);
    assert_eq!(wanted[5].0.skipped, 1, "the sixth gradient is not finite");
    set_order((case % 7) as u32);
    for (name, cuda) in devices {
        placed.allocate(cuda);
        let found = run(cuda, &groups, &placed, &first, &grads);
        cuda.status().unwrap_or_else(|error| panic!("{name}, case {case}: {error}"));
        for (i, (a, b)) in found.iter().zip(&wanted).enumerate() {
            let what = format!("{name}, case {case}: {rows}x{cols} {storage:?} {:?} {class:?}", config.name);
            assert_eq!(a.0, b.0, "{what}, step {}", i + 1);
            for (((plane, _), a), b) in planes(&placed.param).iter().zip(&a.1).zip(&b.1) {
                assert!(a == b, "{what}, step {}: {plane} differs from the CPU's", i + 1);
            }
        }
    }
    wanted.iter().map(|(stats, _)| stats.rescales).sum()
}
