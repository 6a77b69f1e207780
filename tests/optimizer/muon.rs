//! Muon's recorded trajectories, and its iteration alone.

use crate::golden::{assert_close, load};
use crate::one_param::OneParam;
use tetrad::backend::cpu::Isa;
use tetrad::backend::prelude::*;
use tetrad::backend::{Moment, Precision, SecondMoment};
use tetrad::optim::{
    AdjustLr, Groups, Muon, Optimizer, OptimizerConfig, ParamClass, ParamInfo, Rule, StateConfig, StepInfo, Variant,
    newton_schulz, newton_schulz_workspace,
};
use tetrad::quant::{GroupedShape, WeightFormat};

const F32: StateConfig = StateConfig { m: Moment::F32, v: SecondMoment::F32, feedback: false };

/// The published code in the precision given.
fn published(precision: Precision) -> Muon {
    let config = OptimizerConfig { variant: Variant::Reference, ..OptimizerConfig::of(Rule::Muon) };
    Muon { precision, ..Muon::new(&config, F32) }
}

/// The weights after each step that was recorded, with what was recorded, and those before the first.
fn trajectory(golden: &str, rule: impl Fn() -> Muon, lr: f64, compare: impl Fn(&str, &[f32], &[f32], &[f32])) {
    let (problems, recorded) = (load("problems"), load(golden));
    let mut compared = 0;
    for (name, rows, cols) in [("matrix", 24, 40), ("tall", 40, 24)] {
        let info = ParamInfo { class: ParamClass::Matrix, shape: GroupedShape::new(rows, cols, 32), head_dim: 8 };
        let rule = rule();
        let state = rule.state(&info);
        let mut at = OneParam::new(Isa::best(), info.shape, WeightFormat::F32, &state, rule.workspace(&info));
        let w0 = &problems[&format!("{name}.w0")];
        at.write(w0, at.param.weight.data);
        let groups = Groups::one(Box::new(rule));
        for (number, grad) in (1..).zip(problems[&format!("{name}.grads")].chunks_exact(w0.len())) {
            at.write(grad, at.grad);
            let OneParam { param, grad, workspace, .. } = at;
            groups.step(&mut at.cpu, &param, grad, workspace, &StepInfo { number, lr, seed: 1 });
            assert_eq!(at.cpu.update_stats().skipped, 0);
            if let Some(wanted) = recorded.get(&format!("{name}.w.{number}")) {
                let what = format!("{golden}: {name} after step {number}");
                compare(&what, &at.floats(param.weight.data), wanted, w0);
                compared += 1;
            }
        }
    }
    assert_eq!(compared, recorded.len(), "{golden}: every recorded state was compared");
}

#[test]
fn golden_muon_float32() {
    let close = |what: &str, found: &[f32], wanted: &[f32], _: &[f32]| assert_close(found, wanted, what);
    trajectory("muon_f32", || published(Precision::F32), 0.02, close);
    let torch = || Muon { adjust_lr: AdjustLr::MatchRmsAdamw, weight_decay: 0.1, ..published(Precision::F32) };
    trajectory("muon_torch_rms_f32", torch, 0.01, close);
}

/// With the roundings of the published code, as `variant = "reference"` has them: within 2e-3 of the way that the weights have gone.
#[test]
fn golden_muon_bfloat16() {
    let near = |what: &str, found: &[f32], wanted: &[f32], w0: &[f32]| {
        let squares = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let share = (squares(found, wanted) / squares(wanted, w0)).sqrt();
        assert!(share <= 2e-3, "{what}: {share} of the way gone lies beside it");
    };
    trajectory("muon_reference", || published(Precision::Bf16), 0.02, near);
}

/// By default an all-zero gradient, that of step 31, moves neither the momentum nor the weights.
#[test]
fn an_all_zero_gradient_changes_nothing() {
    let info = ParamInfo { class: ParamClass::Matrix, shape: GroupedShape::new(24, 40, 32), head_dim: 8 };
    let groups = OptimizerConfig::of(Rule::Muon).groups(F32);
    let (_, state) = groups.declare(&info);
    let mut at = OneParam::new(Isa::best(), info.shape, WeightFormat::F32, &state, groups.workspace(&info));
    let problems = load("problems");
    let grads: Vec<&[f32]> = problems["matrix.grads"].chunks_exact(960).collect();
    let mut step = |number: u64, values: &[f32]| {
        at.write(values, at.grad);
        let OneParam { param, grad, workspace, .. } = at;
        groups.step(&mut at.cpu, &param, grad, workspace, &StepInfo { number, lr: 0.02, seed: 1 });
        at.planes()
    };
    let first = step(1, grads[0]);
    assert_eq!(step(2, grads[30]), first, "nothing moves");
    assert_ne!(step(3, grads[1]), first);
}

#[test]
fn golden_newton_schulz() {
    let recorded = load("muon_ns5");
    let kinds = [
        ("wide", 24, 40),
        ("tall", 40, 24),
        ("square", 16, 16),
        ("spiked", 24, 40),
        ("rank1", 16, 24),
        ("zero", 8, 12),
    ];
    assert_eq!(recorded.len(), 3 * kinds.len());
    for (kind, rows, cols) in kinds {
        for (precision, out) in [(Precision::F32, "out_f32"), (Precision::Bf16, "out_bf16")] {
            let shape = GroupedShape::new(rows, cols, 32);
            let floats = newton_schulz_workspace(shape, precision);
            let mut at = OneParam::new(Isa::best(), shape, WeightFormat::F32, &[], floats);
            at.write(&recorded[&format!("{kind}.in")], at.grad);
            let OneParam { grad, workspace, .. } = at;
            let result = newton_schulz(&mut at.cpu, grad, (rows, cols), 5, precision, workspace);
            // Singular values of 0 are roundings, which the iteration makes 484 times as large.
            let tolerance = match (precision, kind) {
                (Precision::F32, "rank1") => 5e-5,
                (Precision::F32, _) => 1e-5,
                // A unit in the last place of 1: a sum near a half that another order rounds to the other side.
                (Precision::Bf16, _) => 8e-3,
            };
            for (i, (x, y)) in at.floats(result).iter().zip(&recorded[&format!("{kind}.{out}")]).enumerate() {
                assert!((x - y).abs() <= tolerance, "{kind} {precision:?} [{i}]: {x}, recorded {y}");
            }
        }
    }
}
