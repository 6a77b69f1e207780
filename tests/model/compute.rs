//! Products in other arithmetics than float32.

use crate::harness::adapter;
use crate::harness::small::{self, batch, trainer};
use crate::harness::state::whole_state;
use tetrad::backend::Compute;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint};
use tetrad::config::Config;
use tetrad::error::CheckpointError;
use tetrad::model::{Batch, Generator, GradCompute, TableStorage};
use tetrad::train::Trainer;

fn config(compute: Compute) -> Config {
    let mut config = small::config();
    (config.activations.compute, config.storage.head, config.optimizer.lr) = (compute, TableStorage::Int8, 5e-3);
    config
}

fn trained(compute: Compute) -> (Trainer, Vec<f64>) {
    trained_by(&config(compute))
}

fn trained_by(config: &Config) -> (Trainer, Vec<f64>) {
    let mut trainer = trainer(config, Box::new(Cpu::new()));
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
fn each_product_of_a_run_in_bfloat16_has_a_switch_of_its_own() {
    let (_, floats) = trained(Compute::F32);
    let mut runs = vec![(vec![], floats.clone())];
    for forward in [Compute::F32, Compute::Bf16] {
        for grad_input in [GradCompute::F32, GradCompute::Bf16] {
            for grad_weight in [GradCompute::F32, GradCompute::Bf16] {
                let mut config = config(forward);
                (config.activations.compute_grad_input, config.activations.compute_grad_weight) =
                    (grad_input, grad_weight);
                let (trainer, losses) = trained_by(&config);
                assert!((floats[0] - losses[0]).abs() < 1e-3 * floats[0], "{} and {}", floats[0], losses[0]);
                let (last, expected) = (losses[39], floats[39]);
                assert!((last - expected).abs() < 0.1 * expected, "{last}, not {expected}");
                runs.push((whole_state(&trainer), losses));
            }
        }
    }
    // The first of the eight is the run in floats; the other seven differ from it and from each other.
    assert!(runs[1].1 == runs[0].1, "nothing is rounded");
    for i in 1..runs.len() {
        assert!(runs[i + 1..].iter().all(|other| other.0 != runs[i].0), "run {i} is that of other switches");
    }
    // "forward" stands for what the forward products have.
    let all = trained_by(&config(Compute::Bf16));
    assert!(whole_state(&all.0) == runs[8].0);
    let gradients_in_floats = trained_by(&config(Compute::Int8)).1;
    let mut explicit = config(Compute::Int8);
    (explicit.activations.compute_grad_input, explicit.activations.compute_grad_weight) =
        (GradCompute::F32, GradCompute::F32);
    assert!(trained_by(&explicit).1 == gradients_in_floats);
}

/// Gradients in integers by each switch and by both, beside forward products in floats and in integers.
#[test]
fn each_gradient_of_a_run_in_integers_has_a_switch_of_its_own() {
    let (_, floats) = trained(Compute::F32);
    let mut states = vec![];
    for forward in [Compute::F32, Compute::Int8] {
        for (grad_input, grad_weight) in [
            (GradCompute::F32, GradCompute::F32),
            (GradCompute::Int8, GradCompute::F32),
            (GradCompute::F32, GradCompute::Int8),
            (GradCompute::Int8, GradCompute::Int8),
        ] {
            let mut config = config(forward);
            (config.activations.compute_grad_input, config.activations.compute_grad_weight) = (grad_input, grad_weight);
            let (trainer, losses) = trained_by(&config);
            // Nothing was trained before the first loss; gradients show in the later ones.
            assert!((floats[0] - losses[0]).abs() < 1e-3 * floats[0], "{} and {}", floats[0], losses[0]);
            let (last, expected) = (losses[39], floats[39]);
            assert!((last - expected).abs() < 0.1 * expected, "{last}, not {expected}");
            states.push(whole_state(&trainer));
        }
    }
    for i in 0..states.len() {
        assert!(states[i + 1..].iter().all(|other| *other != states[i]), "run {i} is that of other switches");
    }
}

/// Rounding at random is a matter of seed, step and element alone: a run twice.
#[test]
fn a_run_with_gradients_in_integers_repeats_itself() {
    let mut config = config(Compute::F32);
    (config.activations.compute_grad_input, config.activations.compute_grad_weight) =
        (GradCompute::Int8, GradCompute::Int8);
    let [first, again] = [(); 2].map(|()| whole_state(&trained_by(&config).0));
    assert!(first == again);
}

/// A vocabulary of which a MiB holds the logits of 16 tokens: the head's gradient is formed of blocks of a sequence all the
/// same.
#[test]
fn the_size_of_a_chunk_of_logits_changes_no_byte_in_bfloat16() {
    chunks(|config| config.activations.compute = Compute::Bf16);
}

#[test]
fn the_size_of_a_chunk_of_logits_changes_no_byte_of_gradients_in_integers() {
    chunks(|config| {
        (config.storage.head, config.storage.embedding) = (TableStorage::Int8, TableStorage::Int8);
        (config.activations.compute_grad_input, config.activations.compute_grad_weight) =
            (GradCompute::Int8, GradCompute::Int8);
    });
}

fn chunks(edit: fn(&mut Config)) {
    let mut config = config(Compute::F32);
    (config.model.vocab, config.model.hidden, config.model.layers, config.storage.head) =
        (16_384, 32, 1, TableStorage::Bf16);
    edit(&mut config);
    for (tied, rows, sequence) in [(false, 3, 33), (true, 3, 33), (false, 1, 99)] {
        (config.model.tied, config.train.batch, config.train.sequence) = (tied, rows, sequence);
        let [whole, parts] = [0, 1].map(|mib| {
            config.run.logits_mib = mib;
            let mut trainer = trainer(&config, Box::new(Cpu::new()));
            let start = whole_state(&trainer);
            for number in 0..2 {
                let (inputs, targets) = batch(number);
                trainer.step(&inputs, &targets);
            }
            let end = whole_state(&trainer);
            assert!(end != start, "the steps moved nothing");
            end
        });
        assert!(whole == parts, "tied {tied}, sequences of {sequence}");
    }
}

#[test]
fn a_run_goes_on_in_its_own_arithmetic() {
    let folder = tempfile::tempdir().unwrap();
    for (saved, given) in [(Compute::F32, Compute::Int8), (Compute::Int8, Compute::F32), (Compute::F32, Compute::Bf16)]
    {
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

/// Adapters beside a base whose products, or whose gradients of inputs, are in integers.
#[test]
fn every_kind_of_adapter_trains_beside_a_base_in_integers() {
    let folder = tempfile::tempdir().unwrap();
    let base = adapter::base(folder.path());
    for (what, mut config) in adapter::kinds() {
        let arithmetics =
            [(Compute::F32, GradCompute::F32), (Compute::Int8, GradCompute::F32), (Compute::F32, GradCompute::Int8)];
        let losses = arithmetics.map(|(compute, grad_input)| {
            (config.activations.compute, config.activations.compute_grad_input) = (compute, grad_input);
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
        for (i, rounded) in losses[1..].iter().enumerate() {
            // Beside the head alone no gradient goes through the base.
            let rounds = i == 0 || what != "LoRA of the head";
            assert!((losses[0] != *rounded) == rounds, "{what}: whether something was rounded");
            for (float, integer) in losses[0].iter().zip(rounded) {
                assert!((float - integer).abs() < 0.01 * float, "{what}: {integer}, not {float}");
            }
        }
    }
}
