//! The recorded trajectories of public implementations, met with float32 storage.

use crate::one_param::OneParam;
use safetensors::SafeTensors;
use std::collections::HashMap;
use tetrad::backend::adam::state;
use tetrad::backend::cpu::Isa;
use tetrad::backend::prelude::*;
use tetrad::backend::{Moment, SecondMoment};
use tetrad::optim::{Groups, OptimizerConfig, ParamClass, ParamInfo, Rule, StateConfig, StepInfo, Variant};
use tetrad::quant::{GroupedShape, WeightFormat};

pub fn load(name: &str) -> HashMap<String, Vec<f32>> {
    let path = format!("{}/fixtures/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    file.tensors().into_iter().map(|(name, view)| (name, floats(view.data()))).collect()
}

/// Agreement that the recordings ask for: 1e-5 absolute plus 1e-4 relative, element by element.
fn assert_near(found: &[f32], wanted: &[f32], what: &str) {
    for (i, (x, y)) in found.iter().zip(wanted).enumerate() {
        assert!((x - y).abs() <= 1e-5 + 1e-4 * y.abs(), "{what}[{i}]: {x}, recorded {y}");
    }
}

/// A parameter in float32, state included, and the rule that updates it.
struct Run {
    at: OneParam,
    groups: Groups,
    lr: f64,
}

impl Run {
    fn new(
        rule: &OptimizerConfig,
        v: SecondMoment,
        class: ParamClass,
        (rows, cols): (usize, usize),
        w0: &[f32],
    ) -> Self {
        let groups = rule.groups(StateConfig { m: Moment::F32, v, feedback: false });
        let shape = GroupedShape::new(rows, cols, 32);
        let info = ParamInfo { class, shape, head_dim: 8 };
        let (group, state) = groups.declare(&info);
        let mut at = OneParam::new(Isa::best(), shape, WeightFormat::F32, &state, groups.workspace(&info));
        at.param.group = group;
        at.write(w0, at.param.weight.data);
        Self { at, groups, lr: rule.lr }
    }

    /// Step `number`; gives the weights after it.
    fn step(&mut self, number: u64, grad: &[f32]) -> Vec<f32> {
        let OneParam { param, grad: span, workspace, .. } = self.at;
        self.at.write(grad, span);
        let info = StepInfo { number, lr: self.lr, seed: 1 };
        self.groups.step(&mut self.at.cpu, &param, span, workspace, &info);
        assert_eq!(self.at.cpu.update_stats().skipped, 0);
        self.at.floats(param.weight.data)
    }
}

/// Agreement that the second set of recordings asks for: 2e-6 absolute plus 2e-5 relative, element by element.
pub fn assert_close(found: &[f32], wanted: &[f32], what: &str) {
    for (i, (x, y)) in found.iter().zip(wanted).enumerate() {
        assert!((x - y).abs() <= 2e-6 + 2e-5 * y.abs(), "{what}[{i}]: {x}, recorded {y}");
    }
}

fn trajectory(golden: &str, rule: &OptimizerConfig) {
    let classes = [("matrix", ParamClass::Matrix), ("tall", ParamClass::Matrix), ("vector", ParamClass::Norm)];
    trajectory_of(golden, rule, &classes, assert_near);
}

/// The recorded parameters, each in its class, step by step.
fn trajectory_of(
    golden: &str,
    rule: &OptimizerConfig,
    classes: &[(&str, ParamClass)],
    assert_near: impl Fn(&[f32], &[f32], &str),
) {
    let (problems, recorded) = (load("problems"), load(golden));
    let mut compared = 0;
    for &(name, class) in classes {
        let (rows, cols) = match name {
            "matrix" => (24, 40),
            "tall" => (40, 24),
            _ => (1, 64),
        };
        let w0 = &problems[&format!("{name}.w0")];
        let mut run = Run::new(rule, SecondMoment::F32, class, (rows, cols), w0);
        for (t, grad) in (1..).zip(problems[&format!("{name}.grads")].chunks_exact(w0.len())) {
            let w = run.step(t, grad);
            if let Some(wanted) = recorded.get(&format!("{name}.w.{t}")) {
                assert_near(&w, wanted, &format!("{golden}: {name} after step {t}"));
                compared += 1;
            }
        }
    }
    assert_eq!(compared, recorded.len(), "{golden}: every recorded state was compared");
}

/// SGD as PyTorch has it: an all-zero gradient is a gradient like any other.
fn sgd(momentum: f64) -> OptimizerConfig {
    OptimizerConfig { momentum, variant: Variant::Reference, ..OptimizerConfig::of(Rule::Sgd) }
}

const SGD: [(&str, ParamClass); 2] = [("matrix", ParamClass::Matrix), ("vector", ParamClass::Matrix)];

#[test]
fn golden_sgd() {
    trajectory_of("sgd", &sgd(0.0), &SGD, assert_close);
    trajectory_of("sgd_momentum", &sgd(0.9), &SGD, assert_close);
    trajectory_of("sgd_nesterov", &OptimizerConfig { nesterov: true, ..sgd(0.9) }, &SGD, assert_close);
    trajectory_of("sgd_momentum_wd", &OptimizerConfig { weight_decay: 0.1, ..sgd(0.9) }, &SGD, assert_close);
}

#[test]
fn golden_lion() {
    let lion = OptimizerConfig { variant: Variant::Reference, lr: 1e-3, ..OptimizerConfig::of(Rule::Lion) };
    let classes = [("matrix", ParamClass::Matrix), ("tall", ParamClass::Matrix), ("vector", ParamClass::Matrix)];
    trajectory_of("lion", &lion, &classes, assert_near);
}

#[test]
fn golden_scale() {
    let scale = OptimizerConfig { variant: Variant::Reference, ..OptimizerConfig::of(Rule::Scale) };
    let all = [("matrix", ParamClass::Matrix), ("tall", ParamClass::Head), ("vector", ParamClass::Norm)];
    trajectory_of("scale_reference", &scale, &all, assert_close);
    trajectory_of("scale_reference_embed", &scale, &[("tall", ParamClass::Embedding)], assert_close);
    let paper = OptimizerConfig { variant: Variant::Paper, ..scale };
    trajectory_of("scale_paper", &paper, &all[..2], assert_close);
}

fn config(name: Rule) -> OptimizerConfig {
    OptimizerConfig { name, lr: 0.01, weight_decay: 0.0, reset_interval: 20, ..OptimizerConfig::default() }
}

#[test]
fn golden_stable_spam_paper() {
    trajectory("stable_spam_paper", &config(Rule::StableSpam));
}

#[test]
fn golden_stable_spam_paper_with_weight_decay() {
    trajectory("stable_spam_paper_wd", &OptimizerConfig { weight_decay: 0.1, ..config(Rule::StableSpam) });
}

#[test]
fn golden_stable_spam_reference() {
    trajectory("stable_spam_reference", &OptimizerConfig { variant: Variant::Reference, ..config(Rule::StableSpam) });
}

#[test]
fn golden_stable_spam_reference_with_momentum_decay() {
    let decay = OptimizerConfig { momentum_decay: 60, momentum_decay_floor: 0.5, ..config(Rule::StableSpam) };
    trajectory("stable_spam_reference_cosine", &OptimizerConfig { variant: Variant::Reference, ..decay });
}

#[test]
fn golden_spam() {
    let spam =
        OptimizerConfig { eps: 1e-6, spike_threshold: 50.0, spike_quiet: 5, reset_warmup: 10, ..config(Rule::Spam) };
    trajectory("spam_reference", &spam);
}

#[test]
fn golden_adam() {
    trajectory("adam", &config(Rule::Adam));
}

#[test]
fn golden_adamw() {
    trajectory("adamw", &OptimizerConfig { weight_decay: 0.1, ..config(Rule::Adamw) });
}

/// What shared second moments are, told once more in float64 and without the program's formulas: AdamW or Stable-SPAM
/// (`paper`) over a matrix, `v` a mean of squares per row, or per row and column with `v = r c / mean(r)`.
struct Shared {
    rows: usize,
    cols: usize,
    factored: bool,
    w: Vec<f64>,
    m: Vec<f64>,
    r: Vec<f64>,
    c: Vec<f64>,
    /// T, mu, nu
    averages: [f64; 3],
}

impl Shared {
    fn step(&mut self, config: &OptimizerConfig, t: u64, grad: &[f32]) {
        let mut g: Vec<f64> = grad.iter().map(|&x| f64::from(x)).collect();
        let interval = config.reset_interval;
        let mut k = t;
        if config.name == Rule::StableSpam {
            self.clip_and_normalize(config, t, &mut g);
            k = if t < interval { t } else { t % interval + 1 };
            if t.is_multiple_of(interval) {
                [&mut self.m, &mut self.r, &mut self.c].into_iter().for_each(|x| x.fill(0.0));
            }
        }
        let (b1, b2, cols) = (config.beta1, config.beta2, self.cols);
        for (i, r) in self.r.iter_mut().enumerate() {
            *r = b2 * *r + (1.0 - b2) * g[i * cols..][..cols].iter().map(|g| g * g).sum::<f64>() / cols as f64;
        }
        for (j, c) in self.c.iter_mut().enumerate() {
            let squares = g.iter().skip(j).step_by(cols).map(|g| g * g);
            *c = b2 * *c + (1.0 - b2) * squares.sum::<f64>() / self.rows as f64;
        }
        let mean = self.r.iter().sum::<f64>() / self.rows as f64;
        for (e, g) in g.iter().enumerate() {
            self.m[e] = b1 * self.m[e] + (1.0 - b1) * g;
            let column = if self.factored { self.c[e % cols] / mean } else { 1.0 };
            let v = self.r[e / cols] * column / (1.0 - b2.powf(k as f64));
            let m = self.m[e] / (1.0 - b1.powf(k as f64));
            self.w[e] -= config.lr * config.weight_decay * self.w[e] + config.lr * m / (v.sqrt() + config.eps);
        }
    }

    fn clip_and_normalize(&mut self, config: &OptimizerConfig, t: u64, g: &mut [f64]) {
        let [threshold, mu, nu] = &mut self.averages;
        let average = |kept: &mut f64, decay: f64, new: f64| {
            *kept = decay * *kept + (1.0 - decay) * new;
            *kept / (1.0 - decay.powf(t as f64))
        };
        let most = g.iter().fold(0.0f64, |most, g| most.max(g.abs()));
        let at = average(threshold, config.gamma3, most);
        g.iter_mut().filter(|g| g.abs() > at).for_each(|g| *g *= at / most);
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        let (mean, square) = (average(mu, config.gamma1, norm), average(nu, config.gamma2, norm * norm));
        g.iter_mut().for_each(|g| *g *= mean / (square.sqrt() + config.eps) / norm);
    }
}

#[test]
fn shared_second_moments_follow_their_definition() {
    let problems = load("problems");
    let rules =
        [config(Rule::StableSpam), OptimizerConfig { weight_decay: 0.1, ..config(Rule::Adamw) }, config(Rule::Adam)];
    for (name, rows, cols, factored, config) in [("matrix", 24, 40), ("tall", 40, 24)]
        .into_iter()
        .flat_map(|(name, rows, cols)| [false, true].map(|factored| (name, rows, cols, factored)))
        .flat_map(|(name, rows, cols, factored)| rules.clone().map(|rule| (name, rows, cols, factored, rule)))
    {
        let what = format!("{name}, factored {factored}, {:?}", config.name);
        let w0 = &problems[&format!("{name}.w0")];
        let v = if factored { SecondMoment::Factored } else { SecondMoment::Row };
        let mut run = Run::new(&config, v, ParamClass::Matrix, (rows, cols), w0);
        let columns = if factored { cols } else { 0 };
        let mut exact = Shared {
            rows,
            cols,
            factored,
            w: w0.iter().map(|&x| f64::from(x)).collect(),
            m: vec![0.0; w0.len()],
            r: vec![0.0; rows],
            c: vec![0.0; columns],
            averages: [0.0; 3],
        };
        // Step 31 has an all-zero gradient, which Stable-SPAM freezes at and which has no direction here.
        let grads = problems[&format!("{name}.grads")].chunks_exact(w0.len()).take(30);
        for (t, grad) in (1..).zip(grads) {
            let w = run.step(t, grad);
            exact.step(&config, t, grad);
            let wanted: Vec<f32> = exact.w.iter().map(|&x| x as f32).collect();
            assert_near(&w, &wanted, &format!("{what} after step {t}"));
        }
        let of_rows = run.at.param.state.get(state::V_ROWS).unwrap().data;
        let wanted: Vec<f32> = exact.r.iter().map(|&x| x as f32).collect();
        assert_near(&run.at.floats(of_rows), &wanted, &format!("{what}: means of rows"));
    }
}
