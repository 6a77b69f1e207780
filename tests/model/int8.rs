//! Matrices of signed bytes, which products read whole.

use crate::harness::small::{self, batch};
use crate::harness::state::{read, weight_spans};
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::Checkpoint;
use tetrad::config::Config;
use tetrad::format::{Decoder, Role};
use tetrad::memory::Category;
use tetrad::model::{TableStorage, Weights};
use tetrad::train::{Trainer, plan};

fn config(weights: Weights) -> Config {
    let mut config = small::config();
    config.storage.weights = weights;
    config
}

fn steps(trainer: &mut Trainer, count: u32) -> f64 {
    (0..count).fold(0.0, |_, number| {
        let (inputs, targets) = batch(number % 2);
        trainer.step(&inputs, &targets).loss
    })
}

#[test]
fn a_weight_takes_the_byte_that_code_and_residue_take() {
    let bytes = |weights, category| plan(&config(weights), &Cpu::new()).0.category(category);
    let packed = bytes(Weights::Int4, Category::Weights) + bytes(Weights::Int4, Category::Residue);
    assert_eq!(bytes(Weights::Int8, Category::Weights), packed);
    assert_eq!(bytes(Weights::Int8, Category::Residue), 0);
}

#[test]
fn bytes_learn_at_rates_that_leave_codes_where_they_are() {
    // So low a rate that nearly every update of a four-bit code is lost below it.
    let learned = |weights| {
        let mut config = config(weights);
        (config.optimizer.lr, config.train.warmup) = (1e-4, 0);
        config.train.audit_every = 1;
        let mut trainer = small::trainer(&config, Box::new(Cpu::new()));
        let before = steps(&mut trainer, 2);
        before - steps(&mut trainer, 30)
    };
    let (packed, bytes) = (learned(Weights::Int4), learned(Weights::Int8));
    assert!(bytes > 0.0 && bytes > packed, "{bytes} nats with bytes, {packed} with codes");
}

#[test]
fn a_run_in_bytes_starts_from_the_values_that_packed_training_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed.tetrad");
    let mut packed = small::trainer(&config(Weights::Int4), Box::new(Cpu::new()));
    steps(&mut packed, 3);
    small::write(&packed, &path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut wanted = config(Weights::Int8);
    (wanted.storage.embedding, wanted.storage.group) = (TableStorage::F32, 64);
    let mut trainer = Trainer::new(&wanted, Box::new(Cpu::new())).unwrap();
    checkpoint.start(&mut trainer).unwrap();
    let again = folder.path().join("bytes.tetrad");
    small::write(&trainer, &again);
    let bytes = Checkpoint::open(&again).unwrap();
    bytes.verify().unwrap();
    let (from, to) = (checkpoint.file(), bytes.file());
    let mut matrices = 0;
    for (i, tensor) in to.tensors().iter().enumerate() {
        let (j, _) = from.tensor(&tensor.spec.name).unwrap();
        let old = Decoder::new(&from, j, Role::Trained).or_else(|| Decoder::new(&from, j, Role::Weight)).unwrap();
        let new = Decoder::new(&to, i, Role::Weight).unwrap();
        let (mut before, mut after) = (vec![0.0; old.cols()], vec![0.0; new.cols()]);
        for row in 0..old.rows() {
            old.row(row, &mut before);
            new.row(row, &mut after);
            for (before, after) in before.chunks(64).zip(after.chunks(64)) {
                let largest = before.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                // Half of a step of 127 to the largest value, and the rounding of the scale to f16.
                let near = if tensor.spec.storage.is_grouped() { largest * (0.5 / 127.0 + 1e-3) } else { 0.0 };
                let off = before.iter().zip(after).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
                assert!(off <= near, "{} row {row}: off by {off}, of {largest}", tensor.spec.name);
            }
        }
        matrices += usize::from(tensor.spec.storage.is_grouped());
    }
    assert_eq!(matrices, 14, "seven in each of two blocks");
    // The same storage is taken over bit for bit.
    let mut plain = Trainer::new(&config(Weights::Int4), Box::new(Cpu::new())).unwrap();
    checkpoint.start(&mut plain).unwrap();
    let weights = |trainer: &Trainer| -> Vec<Vec<u8>> {
        trainer.model().stored.iter().flat_map(weight_spans).map(|span| read(trainer, span)).collect()
    };
    assert!(weights(&plain) == weights(&packed));
}
