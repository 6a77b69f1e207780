//! What is not finite changes nothing, is counted, and ends the run if it goes on.

use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Moment, Param, SecondMoment};
use tetrad::config::Config;
use tetrad::data::{Batches, Tokens};
use tetrad::memory::{Category, Lifetime};
use tetrad::model::{TableStorage, Weights, fill};
use tetrad::train::{Observer, Samples, StepReport, StopReason, Trainer, Validation, run};
use zerocopy::IntoBytes;

fn tiny() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (32, 48, 2, 2, 1);
    (config.train.batch, config.train.sequence, config.train.warmup) = (2, 16, 1);
    config
}

fn trainer(config: &Config) -> Trainer {
    let mut trainer = Trainer::new(config, Box::new(Cpu::new())).unwrap();
    trainer.initialize();
    trainer
}

fn tokens(config: &Config) -> (Vec<u32>, Vec<u32>) {
    let count = config.train.batch * config.train.sequence;
    ((0..count as u32).map(|i| i * 7 % 256).collect(), (0..count as u32).map(|i| (i * 7 + 7) % 256).collect())
}

/// Every byte of every plane of a parameter.
fn state(trainer: &Trainer, param: &Param) -> Vec<u8> {
    let mut all = Vec::new();
    let weight = param.weight.planes().into_iter().filter(|span| !span.is_none());
    for span in weight.chain(param.state.planes()) {
        let mut bytes = vec![0; span.bytes];
        trainer.backend().download(span, &mut bytes);
        all.extend(bytes);
    }
    all
}

fn whole_state(trainer: &Trainer) -> Vec<Vec<u8>> {
    trainer.model().stored.iter().map(|param| state(trainer, param)).collect()
}

/// A gain that is not a number makes the loss one.
fn poison(trainer: &mut Trainer) {
    let gain = trainer.model().params.final_norm.gain.weight.data;
    trainer.backend_mut().upload([f32::NAN; 1].as_bytes(), gain.head(4));
}

#[test]
fn a_loss_that_is_not_finite_skips_the_whole_step() {
    let config = tiny();
    let mut trainer = trainer(&config);
    let (inputs, targets) = tokens(&config);
    assert!(!trainer.step(&inputs, &targets).skipped_loss);
    poison(&mut trainer);
    let before = whole_state(&trainer);
    let report = trainer.step(&inputs, &targets);
    assert!(report.skipped_loss && report.loss.is_nan());
    assert!(whole_state(&trainer) == before, "a skipped step changed a byte");
    let counters = trainer.counters();
    assert_eq!((counters.step, counters.position), (2, 4), "a skipped step is a step, and its text is spent");
    assert_eq!((counters.skipped_losses, counters.nonfinite_in_a_row), (1, 1));
}

#[test]
fn a_gradient_that_is_not_finite_skips_its_tensor_only() {
    let mut config = tiny();
    config.storage.weights = Weights::F32;
    let mut trainer = trainer(&config);
    let mlp = trainer.model().params.blocks[1].mlp.clone();
    // Activations of about 1e24 that weights of zero keep out of the loss: only the gradient of those weights sees
    // them, and the sum of its squares overflows.
    for (param, value) in [(&mlp.gate.weight, 1e12), (&mlp.up.weight, 1e12), (&mlp.down.weight, 0.0)] {
        fill(trainer.backend_mut(), &param.weight, &mut |_, row| row.fill(value));
    }
    let before = whole_state(&trainer);
    let (inputs, targets) = tokens(&config);
    let report = trainer.step(&inputs, &targets);
    assert!(!report.skipped_loss && report.loss.is_finite());
    assert_eq!((report.skipped_gradients, trainer.counters().skipped_gradients), (1, 1));
    assert!(report.grad_norm.is_nan());
    for (param, before) in trainer.model().stored.iter().zip(&before) {
        let same = &state(&trainer, param) == before;
        // The gradient of gate and up is zero, and so is what follows from it.
        let untouched = [&mlp.down, &mlp.gate, &mlp.up].map(|linear| linear.weight.id).contains(&param.id);
        assert!(same == untouched || param.id == mlp.norm.gain.id, "parameter {}", param.id);
        assert!(!same || untouched || param.id == mlp.norm.gain.id);
    }
}

#[derive(Default)]
struct Log {
    poison_at: u64,
    saved: Vec<u64>,
    steps: u64,
}

impl Observer for Log {
    type Error = tetrad::error::BackendError;

    fn on_step(&mut self, _: &Trainer, _: &StepReport, _: Duration) -> Result<(), Self::Error> {
        self.steps += 1;
        Ok(())
    }

    fn on_validation(&mut self, _: &Validation) -> Result<(), Self::Error> {
        Ok(())
    }

    fn sample(&mut self, trainer: &mut Trainer) -> Result<(), Self::Error> {
        if trainer.counters().step == self.poison_at {
            poison(trainer);
        }
        Ok(())
    }

    fn save(&mut self, trainer: &Trainer) -> Result<(), Self::Error> {
        self.saved.push(trainer.counters().step);
        Ok(())
    }
}

#[test]
fn too_many_in_a_row_end_the_run_with_the_checkpoint_from_before_them() {
    let mut config = tiny();
    (config.train.steps, config.train.checkpoint_every, config.train.sample_every) = (100, 2, 1);
    config.train.max_nonfinite = 3;
    let mut trainer = trainer(&config);
    let text: Vec<u32> = (0..2000).map(|i| i * i % 251).collect();
    let batches = Batches::new(Tokens::from_ids(&text), 16, 1).unwrap();
    let samples = Samples { train: batches, validation: None };
    let mut log = Log { poison_at: 5, ..Log::default() };
    let ended = run(&mut trainer, &samples, u64::MAX, &AtomicBool::new(false), &mut log).unwrap();
    assert_eq!(ended, StopReason::NotFinite);
    assert_eq!(log.steps, 9, "three in a row are allowed, the fourth ends the run");
    assert_eq!(log.saved, [2, 4], "nothing is saved in the middle of a bad streak");
}

/// What exists between steps, by the plan that the one allocation was made from: packed planes, and nothing as large
/// as a float copy of a packed matrix beside them.
#[test]
fn a_packed_run_holds_no_float_copy_and_one_gradient() {
    let mut config = tiny();
    (config.storage.embedding, config.storage.head) = (TableStorage::Int4, TableStorage::Int4);
    let trainer = trainer(&config);
    let items = trainer.plan().items();
    let of = |category| items.iter().filter(move |item| item.category == category);
    // The head's, the blocks', the embedding's: one after the other, never two at once.
    let matrices: Vec<_> = of(Category::Gradient).filter(|item| item.span.bytes > 4 * 32).collect();
    assert_eq!(matrices.len(), 3, "{matrices:?}");
    let ends: Vec<_> = matrices.iter().map(|item| (item.lifetime.from, item.lifetime.to)).collect();
    let apart = |a: usize, b: usize| ends[a].1 < ends[b].0 || ends[b].1 < ends[a].0;
    assert!(apart(0, 1) && apart(0, 2) && apart(1, 2), "{matrices:?}");
    let largest = 256 * 32;
    assert!(trainer.plan().category(Category::Gradient) <= 4 * largest + 4 * 72);
    let kept: usize = items.iter().filter(|item| item.lifetime == Lifetime::ALWAYS).map(|item| item.span.bytes).sum();
    let state: usize = Category::ALL[..3].iter().map(|&category| trainer.plan().category(category)).sum();
    let parameters: usize = trainer.model().stored.iter().map(|param| param.weight.shape.padded_len()).sum();
    // codes + residue + m + v in nibbles are two bytes per (padded) element; scales, gains and scalars are the rest.
    assert!(state < 2 * parameters + parameters / 2, "{state} bytes for {parameters} elements");
    let kernels = of(Category::Scratch).find(|item| item.name == "kernels").unwrap().span.bytes;
    let rotary = of(Category::Scratch).find(|item| item.name == "rotary table").unwrap().span.bytes;
    assert_eq!(kept, state + kernels + rotary, "nothing else outlives a step");
    assert_eq!((config.storage.m, config.storage.v), (Moment::Int4, SecondMoment::Int4));
}
