//! What every optimizer that a configuration can name must do: a rule is in these tests by being registered.

use crate::harness::in_one_thread;
use crate::harness::small::{self, batch};
use crate::harness::state::{read, weight_spans, whole_state};
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::{Moment, SecondMoment};
use tetrad::checkpoint::Checkpoint;
use tetrad::config::Config;
use tetrad::model::{GradBuffer, Offload, Scheme, TableStorage, Weights};
use tetrad::optim::{OptimizerConfig, Rule};
use tetrad::train::{Limits, Trainer, autotune, fastest, plan, smallest};

/// Steps of a run: the third is after the first refresh, reset or whatever else a rule does every two steps.
const STEPS: u32 = 5;

/// A rule with its published numbers, cut down to a model of 64 features.
fn config(rule: Rule) -> Config {
    let mut config = small::config();
    config.optimizer = OptimizerConfig { reset_interval: 2, ..OptimizerConfig::of(rule) };
    if !rule.reads("reset_interval") {
        config.optimizer = OptimizerConfig::of(rule);
    }
    if rule.reads("update_proj_gap") {
        config.optimizer.update_proj_gap = 2;
    }
    config.validate().unwrap();
    config
}

fn run(config: &Config, cpu: Cpu) -> Trainer {
    let mut trainer = small::trainer(config, Box::new(cpu));
    let start = whole_state(&trainer);
    steps(&mut trainer, 0..STEPS);
    assert!(whole_state(&trainer) != start, "the steps moved nothing");
    trainer
}

/// Bytes that a run needs.
fn total(config: &Config) -> u64 {
    plan(config, &Cpu::new()).0.limited_total() as u64
}

fn steps(trainer: &mut Trainer, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let (inputs, targets) = batch(number);
        let report = trainer.step(&inputs, &targets);
        assert!(report.loss.is_finite() && report.skipped_gradients == 0, "{report:?}");
    }
}

#[test]
fn every_rule_gives_the_same_bytes_for_any_threads_micro_batches_places_and_budgets() {
    in_one_thread(|| {
        let folder = tempfile::tempdir().unwrap();
        for &rule in Rule::ALL {
            let config = config(rule);
            let expected = whole_state(&run(&config, Cpu::with_threads(Isa::best(), 1)));
            let same = |edit: &dyn Fn(&mut Config), threads: usize, what: &str| {
                let mut config = config.clone();
                config.run.dir = folder.path().into();
                edit(&mut config);
                let found = whole_state(&run(&config, Cpu::with_threads(Isa::best(), threads)));
                assert!(found == expected, "{rule:?}: {what}");
            };
            same(&|_| {}, 3, "three threads");
            same(&|config| config.train.micro_batch = 1, 2, "micro-batches of one sequence");
            let passes = |config: &mut Config| {
                (config.train.micro_batch, config.run.grad_buffer) = (1, GradBuffer::Tensor);
            };
            same(&passes, 1, "a gradient buffer of one matrix");
            let away = |config: &mut Config| {
                (config.offload.weights, config.offload.optimizer) = (Offload::File, Offload::File);
            };
            same(&away, 2, "weights and state in a file");
            // As little memory as there can be, and a byte less than the fastest way takes.
            let cpu = Cpu::new();
            let least = total(&smallest(&config, &cpu).unwrap());
            for device in [least, total(&fastest(&config, &cpu)) - 1] {
                let within = |config: &mut Config| {
                    *config = autotune(config, &Cpu::new(), &Limits { device, host: u64::MAX }).expect("it fits");
                };
                same(&within, 2, &format!("within {device} bytes"));
            }
        }
    });
}

#[test]
fn every_rule_resumes_to_the_bytes_of_a_run_that_was_not_interrupted() {
    in_one_thread(|| {
        let folder = tempfile::tempdir().unwrap();
        for &rule in Rule::ALL {
            for (m, v) in [(Moment::Int4, SecondMoment::Int4), (Moment::F32, SecondMoment::F32)] {
                let mut config = config(rule);
                (config.storage.m, config.storage.v) = (m, v);
                let whole = run(&config, Cpu::new());
                for saved_at in 1..STEPS {
                    let path = folder.path().join("saved");
                    let mut first = small::trainer(&config, Box::new(Cpu::new()));
                    steps(&mut first, 0..saved_at);
                    small::write(&first, &path);
                    let checkpoint = Checkpoint::open(&path).unwrap();
                    checkpoint.verify().unwrap();
                    let mut second = Trainer::new(&config, Box::new(Cpu::new())).unwrap();
                    checkpoint.restore(&mut second, "text").unwrap();
                    steps(&mut second, saved_at..STEPS);
                    assert!(whole_state(&second) == whole_state(&whole), "{rule:?} {m:?}: saved after step {saved_at}");
                }
            }
        }
    });
}

#[test]
fn every_rule_moves_every_storage() {
    in_one_thread(|| {
        let storages: [fn(&mut Config); 10] = [
            |_| {},
            |config| config.storage.residue = false,
            |config| config.storage.scheme = Scheme::Asymmetric,
            |config| (config.storage.embedding, config.storage.head) = (TableStorage::Int8, TableStorage::Int4),
            |config| config.storage.weights = Weights::Int4Simulated,
            |config| config.storage.weights = Weights::Int8,
            |config| config.storage.weights = Weights::Bf16,
            |config| config.storage.weights = Weights::F32,
            |config| (config.storage.m, config.storage.v) = (Moment::Int8, SecondMoment::Int8),
            |config| config.model.tied = true,
        ];
        for &rule in Rule::ALL {
            for (number, storage) in storages.iter().enumerate() {
                let mut config = config(rule);
                storage(&mut config);
                config.validate().unwrap_or_else(|error| panic!("{rule:?}, storage {number}: {error}"));
                let trainer = run(&config, Cpu::new());
                // Every parameter moved, not only some.
                let untouched = small::trainer(&config, Box::new(Cpu::new()));
                let params = trainer.model().specs.iter().zip(&trainer.model().stored);
                for (spec, param) in params {
                    let moved =
                        weight_spans(param).into_iter().any(|span| read(&trainer, span) != read(&untouched, span));
                    assert!(moved, "{rule:?}, storage {number}: {} did not move", spec.kind.name());
                }
            }
        }
    });
}

#[test]
fn an_all_zero_gradient_leaves_weights_and_state_as_they_are() {
    // Adam and its kin are PyTorch's, whose moments decay; Stable-SPAM has recordings of its own for this.
    for &rule in Rule::ALL.iter().filter(|rule| !rule.is_adam_like()) {
        let config = config(rule);
        let mut trainer = run(&config, Cpu::new());
        let before = whole_state(&trainer);
        let (inputs, targets) = batch(STEPS);
        // No token has a target, so that every gradient is zero.
        let none = vec![tetrad::backend::IGNORE; targets.len()];
        trainer.step(&inputs, &none);
        assert!(whole_state(&trainer) == before, "{rule:?}");
    }
}
