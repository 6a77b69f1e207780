//! A whole training step: forward, loss, backward, updates. Items are tokens. Before it is timed, twenty steps on
//! one batch must lower the loss as they do with every other storage; the float32 run beside it is the ratio to
//! quote.

use divan::Bencher;
use divan::counter::ItemsCount;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Moment, SecondMoment};
use tetrad::config::Config;
use tetrad::model::{TableStorage, Weights};
use tetrad::train::Trainer;

fn main() {
    // Kernels are called from inside the pool, as the program does it.
    rayon::ThreadPoolBuilder::new().build().expect("threads").install(divan::main);
}

fn run(bencher: Bencher, config: &Config) {
    let mut trainer = Trainer::new(config, Box::new(Cpu::new())).unwrap();
    trainer.initialize();
    let tokens = config.train.batch * config.train.sequence;
    let corpus = include_bytes!("../assets/corpus/austen.txt");
    let inputs: Vec<u32> = corpus[..tokens].iter().map(|&b| b.into()).collect();
    let targets: Vec<u32> = corpus[1..=tokens].iter().map(|&b| b.into()).collect();
    let first = trainer.step(&inputs, &targets).loss;
    let last = (0..20).map(|_| trainer.step(&inputs, &targets).loss).last().unwrap_or(f64::NAN);
    assert!((first - 256f64.ln()).abs() < 0.1 && last < 4.0, "loss from {first} to {last}");
    bencher.counter(ItemsCount::new(tokens)).bench_local(|| trainer.step(&inputs, &targets));
}

/// Short warm-up, so that the check sees the loss fall.
fn quickstart() -> Config {
    let mut config = Config::default();
    config.train.warmup = 5;
    config
}

#[divan::bench(sample_count = 40)]
fn quickstart_int4(bencher: Bencher) {
    run(bencher, &quickstart());
}

#[divan::bench(sample_count = 40)]
fn quickstart_f32(bencher: Bencher) {
    let mut config = quickstart();
    let storage = &mut config.storage;
    (storage.weights, storage.embedding, storage.head) = (Weights::F32, TableStorage::F32, TableStorage::F32);
    (storage.m, storage.v) = (Moment::F32, SecondMoment::F32);
    run(bencher, &config);
}
