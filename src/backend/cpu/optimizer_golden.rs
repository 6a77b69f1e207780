//! The recorded trajectories of public implementations, met with float32 storage.

use super::*;
use crate::backend::cpu::param_rows::{MomentRows, WeightRows};
use crate::config::{Optimizer, Rule, Variant};
use crate::nibble::Geometry;
use crate::optim::SCALARS;
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
        let geometry = Geometry::new(rows, cols, 32);
        let mut w = problems[&format!("{name}.w0")].clone();
        let (mut m, mut v, mut scalars) = (vec![0.0; w.len()], vec![0.0; w.len()], [0.0; SCALARS]);
        for (i, grad) in problems[&format!("{name}.grads")].chunks_exact(w.len()).enumerate() {
            let t = i as u64 + 1;
            let rows = ParamRows {
                geometry,
                first: 0,
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
