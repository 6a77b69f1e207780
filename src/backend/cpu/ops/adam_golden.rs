//! The recorded trajectories of public implementations, met with float32 storage.

use super::*;
use crate::backend::cpu::ops::param_rows::{MomentRows, WeightRows};
use crate::optim::{Optimizer, Rule, SCALARS, Variant};
use crate::quant::GroupedShape;
use safetensors::SafeTensors;
use std::collections::HashMap;

fn load(name: &str) -> HashMap<String, Vec<f32>> {
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

fn trajectory(golden: &str, config: &Optimizer) {
    let (problems, recorded) = (load("problems"), load(golden));
    let mut compared = 0;
    for (id, (name, rows, cols)) in [("matrix", 24, 40), ("tall", 40, 24), ("vector", 1, 64)].into_iter().enumerate() {
        let shape = GroupedShape::new(rows, cols, 32);
        let mut w = problems[&format!("{name}.w0")].clone();
        let (mut m, mut v, mut scalars) = (vec![0.0; w.len()], vec![0.0; w.len()], [0.0; SCALARS]);
        for (i, grad) in problems[&format!("{name}.grads")].chunks_exact(w.len()).enumerate() {
            let t = i as u64 + 1;
            let rows = ParamRows {
                shape,
                first: 0,
                sparse: false,
                grad,
                weight: WeightRows::F32(&mut w),
                m: MomentRows::F32(&mut m),
                v: MomentRows::F32(&mut v),
            };
            let at = Step::new(config, t, config.lr, false, 1);
            let planes = Planes { rows, means: None, scalars: &mut scalars };
            assert_eq!(step_rows(Isa::best(), planes, &at, id as u32, true).skipped, 0);
            if let Some(wanted) = recorded.get(&format!("{name}.w.{t}")) {
                assert_near(&w, wanted, &format!("{golden}: {name} after step {t}"));
                compared += 1;
            }
        }
    }
    assert_eq!(compared, recorded.len(), "{golden}: every recorded state was compared");
}

fn config(name: Rule) -> Optimizer {
    Optimizer { name, lr: 0.01, weight_decay: 0.0, reset_interval: 20, ..Optimizer::default() }
}

#[test]
fn golden_stable_spam_paper() {
    trajectory("stable_spam_paper", &config(Rule::StableSpam));
}

#[test]
fn golden_stable_spam_paper_with_weight_decay() {
    trajectory("stable_spam_paper_wd", &Optimizer { weight_decay: 0.1, ..config(Rule::StableSpam) });
}

#[test]
fn golden_stable_spam_reference() {
    trajectory("stable_spam_reference", &Optimizer { variant: Variant::Reference, ..config(Rule::StableSpam) });
}

#[test]
fn golden_stable_spam_reference_with_momentum_decay() {
    let decay = Optimizer { momentum_decay: 60, momentum_decay_floor: 0.5, ..config(Rule::StableSpam) };
    trajectory("stable_spam_reference_cosine", &Optimizer { variant: Variant::Reference, ..decay });
}

#[test]
fn golden_spam() {
    let spam = Optimizer { eps: 1e-6, spike_threshold: 50.0, spike_quiet: 5, reset_warmup: 10, ..config(Rule::Spam) };
    trajectory("spam_reference", &spam);
}

#[test]
fn golden_adam() {
    trajectory("adam", &config(Rule::Adam));
}

#[test]
fn golden_adamw() {
    trajectory("adamw", &Optimizer { weight_decay: 0.1, ..config(Rule::Adamw) });
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
    fn step(&mut self, config: &Optimizer, t: u64, grad: &[f32]) {
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

    fn clip_and_normalize(&mut self, config: &Optimizer, t: u64, g: &mut [f64]) {
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
    let rules = [config(Rule::StableSpam), Optimizer { weight_decay: 0.1, ..config(Rule::Adamw) }, config(Rule::Adam)];
    for (name, rows, cols, factored, config) in [("matrix", 24, 40), ("tall", 40, 24)]
        .into_iter()
        .flat_map(|(name, rows, cols)| [false, true].map(|factored| (name, rows, cols, factored)))
        .flat_map(|(name, rows, cols, factored)| rules.clone().map(|rule| (name, rows, cols, factored, rule)))
    {
        let what = format!("{name}, factored {factored}, {:?}", config.name);
        let mut w = problems[&format!("{name}.w0")].clone();
        let columns = if factored { cols } else { 0 };
        let mut exact = Shared {
            rows,
            cols,
            factored,
            w: w.iter().map(|&x| f64::from(x)).collect(),
            m: vec![0.0; w.len()],
            r: vec![0.0; rows],
            c: vec![0.0; columns],
            averages: [0.0; 3],
        };
        let (mut m, mut r, mut c, mut scalars) =
            (vec![0.0; w.len()], vec![0.0; rows], vec![0.0; columns], [0.0; SCALARS]);
        let (mut now, mut factors, mut sums) = (vec![0.0; rows], vec![0.0; columns], vec![0.0; columns]);
        // Step 31 has an all-zero gradient, which Stable-SPAM freezes at and which has no direction here.
        let grads = problems[&format!("{name}.grads")].chunks_exact(w.len()).take(30);
        for (t, grad) in (1..).zip(grads) {
            let planes = Planes {
                rows: ParamRows {
                    shape: GroupedShape::new(rows, cols, 32),
                    first: 0,
                    sparse: false,
                    grad,
                    weight: WeightRows::F32(&mut w),
                    m: MomentRows::F32(&mut m),
                    v: MomentRows::Shared { rows: &[], factors: &[] },
                },
                means: Some(Means {
                    rows: &mut r,
                    cols: &mut c,
                    now: &mut now,
                    factors: &mut factors,
                    sums: &mut sums,
                }),
                scalars: &mut scalars,
            };
            step_rows(Isa::best(), planes, &Step::new(&config, t, config.lr, false, 1), 0, true);
            exact.step(&config, t, grad);
            let wanted: Vec<f32> = exact.w.iter().map(|&x| x as f32).collect();
            assert_near(&w, &wanted, &format!("{what} after step {t}"));
        }
        assert_near(&r, &exact.r.iter().map(|&x| x as f32).collect::<Vec<_>>(), &format!("{what}: means of rows"));
    }
}
