//! Clipping by the norm of the whole gradient: beside PyTorch's formulas in float64, for every rule, and across variants that
//! must give the same bytes.

use crate::harness::clip::{config, every_rule_sees_the_scaled_gradient, gradients, numbers};
use crate::harness::small::{self, batch};
use crate::harness::state::{floats, read, whole_state};
use std::collections::BTreeMap;
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::{Moment, SecondMoment};
use tetrad::checkpoint::Checkpoint;
use tetrad::config::Config;
use tetrad::model::{GradBuffer, Offload, TableStorage, Weights, fill};
use tetrad::optim::{OptimizerConfig, Rule};
use tetrad::train::Trainer;

fn float32() -> Config {
    let mut config = config(Rule::Adamw);
    config.storage.weights = Weights::F32;
    (config.storage.embedding, config.storage.head) = (TableStorage::F32, TableStorage::F32);
    (config.storage.m, config.storage.v) = (Moment::F32, SecondMoment::F32);
    config.optimizer = OptimizerConfig { lr: 1e-2, weight_decay: 0.1, ..config.optimizer };
    config
}

/// A parameter as PyTorch's AdamW keeps it, in float64.
struct Reference {
    w: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl Reference {
    fn step(&mut self, grad: &[f64], number: i32, lr: f64, decay: f64, of: &OptimizerConfig) {
        let corrections = [of.beta1, of.beta2].map(|beta| 1.0 - beta.powi(number));
        for (i, g) in grad.iter().enumerate() {
            self.w[i] *= 1.0 - lr * decay;
            self.m[i] = of.beta1 * self.m[i] + (1.0 - of.beta1) * g;
            self.v[i] = of.beta2 * self.v[i] + (1.0 - of.beta2) * g * g;
            let root = (self.v[i] / corrections[1]).sqrt() + of.eps;
            self.w[i] -= lr * self.m[i] / corrections[0] / root;
        }
    }
}

#[test]
fn adamw_with_clipping_is_that_of_clip_grad_norm() {
    let mut norms: Vec<f64> = Vec::new();
    for run in 0..3 {
        // Nothing is clipped, then everything, then about half of the steps.
        norms.sort_by(f64::total_cmp);
        let most = [1e3, 1e-2, norms.get(4).copied().unwrap_or_default()][run];
        norms.clear();
        let mut config = float32();
        config.optimizer.grad_clip = most;
        let mut trainer = small::trainer(&config, Box::new(Cpu::new()));
        let mut reference: Vec<Reference> = trainer
            .model()
            .stored
            .iter()
            .map(|param| floats(&trainer, param.weight.data))
            .map(|w| w.into_iter().map(f64::from).collect::<Vec<_>>())
            .map(|w| Reference { m: vec![0.0; w.len()], v: vec![0.0; w.len()], w })
            .collect();
        let decays: Vec<bool> = trainer.model().stored.iter().map(|param| param.decay).collect();
        let mut clipped = 0;
        for number in 0..8 {
            let mut grads: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
            gradients(&mut trainer, number, &mut |backend, param, grad| {
                grads.insert(param.id, numbers(backend, grad).into_iter().map(f64::from).collect());
            });
            let norm = grads.values().flatten().map(|g| g * g).sum::<f64>().sqrt();
            norms.push(norm);
            let factor = (most / (norm + 1e-6)).min(1.0);
            clipped += u64::from(factor < 1.0);
            let (inputs, targets) = batch(number);
            let report = trainer.step(&inputs, &targets);
            assert!((report.grad_norm / norm - 1.0).abs() < 1e-5, "{} instead of {norm}", report.grad_norm);
            assert!((report.clip_factor.unwrap() / factor - 1.0).abs() < 1e-5);
            let ids: Vec<u32> = trainer.model().stored.iter().map(|param| param.id).collect();
            for (i, known) in reference.iter_mut().enumerate() {
                let grad: Vec<f64> = grads[&ids[i]].iter().map(|g| g * factor).collect();
                let decay = if decays[i] { config.optimizer.weight_decay } else { 0.0 };
                known.step(&grad, number as i32 + 1, report.lr, decay, &config.optimizer);
                let found = floats(&trainer, trainer.model().stored[i].weight.data);
                for (found, expected) in found.iter().zip(&mut known.w) {
                    let near = (f64::from(*found) - *expected).abs() <= 1e-5 * (0.01 + expected.abs());
                    assert!(near, "parameter {i}, step {}: {found} instead of {expected}", number + 1);
                    // The next gradients are those of the rounded weights.
                    *expected = f64::from(*found);
                }
            }
        }
        assert_eq!(trainer.counters().clipped_steps, clipped);
        assert!(
            [clipped == 0, clipped == 8, (1..8).contains(&clipped)][run],
            "{clipped} steps of run {run}: {norms:?}"
        );
    }
}

#[test]
fn every_rule_gets_one_scaled_gradient() {
    every_rule_sees_the_scaled_gradient(2, &|| Box::new(Cpu::new()));
}

fn run(config: &Config, threads: usize) -> Trainer {
    let mut trainer = small::trainer(config, Box::new(Cpu::with_threads(Isa::best(), threads)));
    for number in 0..3 {
        let (inputs, targets) = batch(number);
        trainer.step(&inputs, &targets);
    }
    trainer
}

#[test]
fn a_limit_that_no_gradient_reaches_changes_no_byte() {
    let plain = config(Rule::StableSpam);
    let mut limited = plain.clone();
    limited.optimizer.grad_clip = 1e6;
    let (expected, found) = (run(&plain, 1), run(&limited, 1));
    assert!(whole_state(&found) == whole_state(&expected));
    assert_eq!((found.counters().clipped_steps, found.counters()), (0, expected.counters()));
}

#[test]
fn clipped_steps_give_the_same_bytes_for_any_threads_micro_batches_and_places() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(Rule::StableSpam);
    (config.optimizer.grad_clip, config.run.dir) = (0.5, folder.path().into());
    let whole = run(&config, 1);
    assert_eq!(whole.counters().clipped_steps, 3);
    let expected = whole_state(&whole);
    let same = |threads, what: &str, edit: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        edit(&mut config);
        assert!(whole_state(&run(&config, threads)) == expected, "{what}");
    };
    same(3, "three threads", &|_| {});
    same(2, "micro-batches of one sequence", &|config| config.train.micro_batch = 1);
    same(1, "a gradient buffer of one matrix", &|config| {
        (config.train.micro_batch, config.run.grad_buffer) = (1, GradBuffer::Tensor);
    });
    same(2, "weights and state in a file", &|config| {
        (config.offload.weights, config.offload.optimizer) = (Offload::File, Offload::File);
    });
    let path = folder.path().join("saved");
    let mut first = small::trainer(&config, Box::new(Cpu::new()));
    let (inputs, targets) = batch(0);
    first.step(&inputs, &targets);
    small::write(&first, &path);
    let mut resumed = Trainer::new(&config, Box::new(Cpu::new())).unwrap();
    Checkpoint::open(&path).unwrap().restore(&mut resumed, "text").unwrap();
    for number in 1..3 {
        let (inputs, targets) = batch(number);
        resumed.step(&inputs, &targets);
    }
    assert!(whole_state(&resumed) == expected && resumed.counters() == whole.counters(), "resumed");
}

#[test]
fn a_gradient_that_is_not_finite_changes_no_parameter() {
    let mut config = float32();
    config.optimizer.grad_clip = 1.0;
    let mut trainer = small::trainer(&config, Box::new(Cpu::new()));
    let mlp = trainer.model().params.blocks[1].mlp.clone();
    // Weights of zero keep activations of about 1e24 out of the loss; the squares of their own gradient overflow.
    for (param, value) in [(&mlp.gate.weight, 1e12), (&mlp.up.weight, 1e12), (&mlp.down.weight, 0.0)] {
        fill(trainer.backend_mut(), &param.weight, &mut |_, row| row.fill(value));
    }
    let before = whole_state(&trainer);
    let (inputs, targets) = batch(0);
    let report = trainer.step(&inputs, &targets);
    assert!(report.loss.is_finite() && report.grad_norm.is_nan() && report.clip_factor.is_none());
    assert_eq!((report.skipped_gradients, trainer.counters().nonfinite_in_a_row), (1, 1));
    assert!(whole_state(&trainer) == before);
    // Without clipping only that tensor is passed over.
    config.optimizer.grad_clip = 0.0;
    let mut plain = small::trainer(&config, Box::new(Cpu::new()));
    for (param, value) in [(&mlp.gate.weight, 1e12), (&mlp.up.weight, 1e12), (&mlp.down.weight, 0.0)] {
        fill(plain.backend_mut(), &param.weight, &mut |_, row| row.fill(value));
    }
    plain.step(&inputs, &targets);
    let embedding = plain.model().params.embedding.weight.data;
    assert!(read(&plain, embedding) != read(&trainer, embedding));
}
