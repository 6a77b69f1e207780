//! Forward products in integers.

use crate::harness::adapter;
use crate::harness::small::{self, batch, trainer};
use crate::harness::state::whole_state;
use tetrad::backend::Compute;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint};
use tetrad::config::Config;
use tetrad::error::CheckpointError;
use tetrad::model::{Batch, Generator, TableStorage};
use tetrad::train::Trainer;

fn config(compute: Compute) -> Config {
    let mut config = small::config();
    (config.activations.compute, config.storage.head, config.optimizer.lr) = (compute, TableStorage::Int8, 5e-3);
    config
}

fn trained(compute: Compute) -> (Trainer, Vec<f64>) {
    let mut trainer = trainer(&config(compute), Box::new(Cpu::new()));
    let start = whole_state(&trainer);
    let losses = (0..40).map(|number| {
        let (inputs, targets) = batch(number % 4);
        trainer.step(&inputs, &targets).loss
    });
    let losses = losses.collect();
    assert!(whole_state(&trainer) != start, "the steps moved nothing");
    (trainer, losses)
}

#[test]
fn a_run_in_integers_stays_near_to_one_in_floats() {
    let (_, floats) = trained(Compute::F32);
    let (_, integers) = trained(Compute::Int8);
    assert!(floats != integers, "nothing was rounded");
    // The first step begins from the same weights: what it differs by is the rounding of inputs alone.
    assert!((floats[0] - integers[0]).abs() < 1e-3 * floats[0], "{} and {}", floats[0], integers[0]);
    let (last, expected) = (integers[39], floats[39]);
    assert!(floats[0] - expected > 1.0 && (last - expected).abs() < 0.1 * expected, "{last}, not {expected}");
}

#[test]
fn a_run_in_small_floats_stays_near_to_one_in_floats() {
    let [floats, small, integers] = [Compute::F32, Compute::Fp8, Compute::Int8].map(|compute| trained(compute).1);
    assert!(floats != small && integers != small, "nothing was rounded, or to integers");
    // Sixteenths of each element at worst, which average out.
    assert!((floats[0] - small[0]).abs() < 5e-3 * floats[0], "{} and {}", floats[0], small[0]);
    let (last, expected) = (small[39], floats[39]);
    assert!(floats[0] - expected > 1.0 && (last - expected).abs() < 0.1 * expected, "{last}, not {expected}");
}

#[test]
fn a_run_goes_on_in_its_own_arithmetic() {
    let folder = tempfile::tempdir().unwrap();
    for (saved, given) in [(Compute::F32, Compute::Int8), (Compute::Int8, Compute::F32)] {
        let path = folder.path().join("a.tetrad");
        small::write(&trainer(&config(saved), Box::new(Cpu::new())), &path);
        let checkpoint = Checkpoint::open_sound(&path).unwrap();
        let mut same = Trainer::new(&config(saved), Box::new(Cpu::new())).unwrap();
        checkpoint.restore(&mut same, "text").unwrap();
        let mut other = Trainer::new(&config(given), Box::new(Cpu::new())).unwrap();
        let error = checkpoint.restore(&mut other, "text").unwrap_err();
        let told = matches!(&error, CheckpointError::Differs { key, .. } if key == "activations.compute");
        assert!(told, "{error}");
    }
}

/// The loss of a text and the logits after it, token by token.
fn used(checkpoint: &Checkpoint, compute: Compute) -> (f64, Vec<f32>) {
    let adapted = Adapted::new(checkpoint, &[]).unwrap().with_compute(compute);
    let mut cpu = Cpu::new();
    let capacity = Capacity { tokens: 33, keys: 33, sampling: true, packing: false };
    let model = adapted.open(&mut cpu, capacity).unwrap();
    let (inputs, targets) = batch(1);
    let mut losses = vec![0.0; 33];
    let loss = model.evaluate(&mut cpu, Batch::whole(1, 33), &inputs[..33], &targets[..33], &[], &mut losses);
    let mut generator = Generator::new(&model);
    let logits = inputs[..33].iter().map(|&token| generator.feed(&mut cpu, &[token]).to_vec()).last().unwrap();
    (loss / 33.0, logits)
}

#[test]
fn a_finished_model_is_used_in_either_arithmetic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tetrad");
    small::write(&trained(Compute::F32).0, &path);
    let checkpoint = Checkpoint::open_sound(&path).unwrap();
    let ((loss, logits), (rounded_loss, rounded)) = (used(&checkpoint, Compute::F32), used(&checkpoint, Compute::Int8));
    assert!(loss != rounded_loss && (loss - rounded_loss).abs() < 0.02 * loss, "{rounded_loss}, not {loss}");
    let size = logits.iter().map(|x| x.abs()).fold(0.0, f32::max);
    let distance = logits.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(distance > 0.0 && distance < 0.05 * size, "{distance} apart, logits up to {size}");
}

/// Adapters beside a base in integers: the base's products alone are rounded.
#[test]
fn every_kind_of_adapter_trains_beside_a_base_in_integers() {
    let folder = tempfile::tempdir().unwrap();
    let base = adapter::base(folder.path());
    for (what, mut config) in adapter::kinds() {
        let losses = [Compute::F32, Compute::Int8].map(|compute| {
            config.activations.compute = compute;
            let mut trainer = adapter::trainer(&config, &base, Box::new(Cpu::new()));
            let start = whole_state(&trainer);
            let losses: Vec<f64> = (0..4)
                .map(|number| {
                    let (inputs, targets) = batch(number);
                    trainer.step(&inputs, &targets).loss
                })
                .collect();
            assert!(whole_state(&trainer) != start, "{what}: nothing moved");
            losses
        });
        assert!(losses[0] != losses[1], "{what}: nothing was rounded");
        for (float, integer) in losses[0].iter().zip(&losses[1]) {
            assert!((float - integer).abs() < 0.01 * float, "{what}: {integer}, not {float}");
        }
    }
}
