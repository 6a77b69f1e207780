//! The fused pass beside the readable step: the same bytes for every storage, rule and instruction set.

use crate::one_param::OneParam;
use crate::reference::{MomentKind, Planes};
use proptest::prelude::*;
use tetrad::backend::UpdateStats;
use tetrad::backend::adam::AdamArgs;
use tetrad::backend::cpu::Isa;
use tetrad::backend::prelude::*;
use tetrad::optim::{AdamStepInfo, OptimizerConfig, Rule, Variant};
use tetrad::quant::{GroupedShape, RngKey, RngUse, WeightFormat};

fn args(config: &OptimizerConfig, number: u64, lr: f64, feedback: bool, seed: u64) -> AdamArgs {
    AdamStepInfo::new(config, number, lr, feedback, seed).args(true)
}

/// One step of the backend's operation.
fn fused_step(at: &mut OneParam, grad: &[f32], args: &AdamArgs) -> UpdateStats {
    at.write(grad, at.grad);
    at.cpu.adam(&at.param, at.grad, args);
    at.cpu.update_stats()
}

fn rule(index: usize) -> OptimizerConfig {
    let base = OptimizerConfig { lr: 2e-3, weight_decay: 0.05, reset_interval: 4, ..OptimizerConfig::default() };
    match index {
        0 => base,
        1 => OptimizerConfig { variant: Variant::Reference, momentum_decay: 10, ..base },
        2 => OptimizerConfig { name: Rule::Spam, spike_quiet: 2, spike_threshold: 3.0, reset_warmup: 2, ..base },
        3 => OptimizerConfig { name: Rule::Adamw, ..base },
        _ => OptimizerConfig { name: Rule::Adam, ..base },
    }
}

/// The rule, as second moments of this kind allow it; none if they do not.
fn rule_for(index: usize, v: MomentKind) -> Option<OptimizerConfig> {
    match (v, rule(index)) {
        (MomentKind::Shared { .. }, OptimizerConfig { name: Rule::Spam, .. }) => None,
        (MomentKind::Shared { .. }, config @ OptimizerConfig { name: Rule::Adam, .. }) => {
            Some(OptimizerConfig { weight_decay: 0.0, ..config })
        }
        (_, config) => Some(config),
    }
}

/// A step of the naive reference and of the fused pass on every instruction set: the same bytes.
fn steps_alike(naive: &mut Planes, fused: &mut [OneParam], grad: &[f32], at: &AdamArgs) -> Result<(), TestCaseError> {
    let rescales = naive.reference_step(grad, at, 3);
    for one in fused {
        let stats = fused_step(one, grad, at);
        prop_assert_eq!(stats.skipped, 0);
        prop_assert_eq!(stats.rescales, rescales);
        prop_assert_eq!(one.planes(), naive.bytes());
    }
    Ok(())
}

const FORMATS: [WeightFormat; 9] = [
    WeightFormat::FP4,
    WeightFormat::FP4.with_residue(false),
    WeightFormat::F32,
    WeightFormat::BF16,
    WeightFormat::INT8,
    WeightFormat::INT4,
    WeightFormat::INT4_OFFSET,
    WeightFormat::INT4.with_residue(false),
    WeightFormat::INT4_OFFSET.with_residue(false),
];

const MOMENTS: [MomentKind; 3] = [MomentKind::F32, MomentKind::Byte, MomentKind::Nibble];

const SECOND_MOMENTS: [MomentKind; 5] = [
    MomentKind::F32,
    MomentKind::Byte,
    MomentKind::Nibble,
    MomentKind::Shared { factored: false },
    MomentKind::Shared { factored: true },
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    /// Seven steps of any rule on any storage, on every instruction set, against the naive step: same bytes.
    #[test]
    fn the_fused_pass_gives_the_naive_steps_bytes(
        rows in 1usize..6,
        cols in prop::sample::select(vec![1usize, 31, 33, 64, 65, 100, 172, 255, 257]),
        group in prop::sample::select(vec![32usize, 64, 128, 256]),
        kind in prop::sample::select(FORMATS.to_vec()),
        m in prop::sample::select(MOMENTS.to_vec()),
        v in prop::sample::select(SECOND_MOMENTS.to_vec()),
        which in 0usize..5,
        feedback: bool,
        sparse: bool,
        seed: u64,
    ) {
        let Some(config) = rule_for(which, v) else { return Ok(()) };
        let sparse = sparse && v != MomentKind::Shared { factored: true };
        let mut naive = Planes::new(GroupedShape::new(rows, cols, group), kind, [m, v]);
        if kind.codec().is_int4() && seed % 3 == 0 {
            naive = naive.like_ggml(seed);
        }
        let mut fused: Vec<OneParam> = Isa::available().map(|isa| naive.in_memory(isa)).collect();
        fused.iter_mut().for_each(|at| at.param.sparse = sparse);
        for number in 1..=7u64 {
            let mut grad = vec![0.0; rows * cols];
            if number != 5 {
                RngKey { seed, step: number as u32, tensor: 9, usage: RngUse::Init }.normal(0, &mut grad);
            }
            // A spike, and a learning rate that leaves the range now and then.
            grad[(number as usize * 7) % (rows * cols)] *= 30.0;
            if sparse {
                // Zeros of both signs.
                let absent = grad.chunks_exact_mut(cols).enumerate().filter(|(i, _)| (i + number as usize).is_multiple_of(3));
                absent.for_each(|(i, row)| row.fill(if i % 2 == 0 { 0.0 } else { -0.0 }));
            }
            let lr = if number == 3 { 0.1 } else { config.lr };
            let at = args(&config, number, lr, feedback, seed);
            naive.sparse = sparse && !at.resets();
            steps_alike(&mut naive, &mut fused, &grad, &at)?;
        }
        prop_assert!(naive.padding_is_untouched());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// The same of rows of whole groups, codes and residue or bfloat16, with moments of four bits, the first also of eight, for which
    /// there is a way of its own; gradients of many sizes in one group, of one size, and none.
    #[test]
    fn whole_groups_of_the_default_give_the_naive_steps_bytes(
        rows in 1usize..4,
        groups in 1usize..4,
        group in prop::sample::select(vec![32usize, 64, 128, 256]),
        m in prop::sample::select(vec![MomentKind::Nibble, MomentKind::Byte]),
        v in prop::sample::select(SECOND_MOMENTS[2..].to_vec()),
        kind in prop::sample::select(vec![WeightFormat::INT4, WeightFormat::BF16]),
        which in 0usize..5,
        feedback: bool,
        size in prop::sample::select(vec![1.0f32, 1e-3, 1e-18, 1e12]),
        seed: u64,
    ) {
        let Some(config) = rule_for(which, v) else { return Ok(()) };
        let cols = groups * group;
        let mut naive = Planes::new(GroupedShape::new(rows, cols, group), kind, [m, v]);
        if kind == WeightFormat::INT4 && seed % 3 == 0 {
            naive = naive.like_ggml(seed);
        }
        let mut packed: Vec<OneParam> = Isa::available().map(|isa| naive.in_memory(isa)).collect();
        for number in 1..=9u64 {
            let mut grad = vec![0.0; rows * cols];
            if number != 6 {
                RngKey { seed, step: number as u32, tensor: 9, usage: RngUse::Init }.normal(0, &mut grad);
                for (i, g) in grad.iter_mut().enumerate() {
                    *g *= size * [1.0, 1.0, 1e-5, 0.0, -0.0][(i / 3 + number as usize) % 5];
                }
                grad[seed as usize % (rows * cols)] = 40.0 * size;
            }
            let lr = if number % 3 == 0 { 0.1 } else { config.lr };
            let at = args(&config, number, lr, feedback, seed);
            steps_alike(&mut naive, &mut packed, &grad, &at)?;
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for (bad, v) in [f32::NAN, f32::INFINITY, 3e38].into_iter().flat_map(|bad| SECOND_MOMENTS.map(|v| (bad, v))) {
        let kind = WeightFormat::INT4;
        let mut at = Planes::new(GroupedShape::new(3, 100, 64), kind, [MomentKind::Nibble, v]).in_memory(Isa::best());
        let before = at.planes();
        let mut grad = vec![0.01; 300];
        grad[217] = bad;
        let stats = fused_step(&mut at, &grad, &args(&rule(0), 1, 1e-3, false, 1));
        assert_eq!(stats.skipped, 1);
        assert_eq!(at.planes(), before);
    }
}

/// A tensor of several leaves and blocks: cut among threads or not, the bytes are the same.
#[test]
fn the_number_of_threads_changes_no_byte() {
    for v in SECOND_MOMENTS {
        let kind = WeightFormat::INT4;
        threads_change_no_byte(&Planes::new(GroupedShape::new(150, 333, 64), kind, [MomentKind::Nibble, v]));
    }
}

fn threads_change_no_byte(start: &Planes) {
    let mut grad = vec![0.0; start.shape.len()];
    RngKey { seed: 2, step: 1, tensor: 9, usage: RngUse::Init }.normal(0, &mut grad);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut at = start.in_memory(Isa::best());
            fused_step(&mut at, &grad, &args(&rule(0), 1, 1e-3, false, 1));
            at.planes()
        })
    };
    let one = run(1);
    assert_ne!(one[0], start.codes);
    assert_eq!(run(2), one);
    assert_eq!(run(5), one);
}
