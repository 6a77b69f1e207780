//! A whole training step: forward, loss, backward, updates. Items are tokens. Before it is timed, steps on one batch must
//! lower the loss as they do with every other storage; the float32 run beside it is the ratio to quote.

use divan::Bencher;
use divan::counter::ItemsCount;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Compute, Moment, SecondMoment};
use tetrad::config::Config;
use tetrad::model::{GradCompute, TableStorage, Weights};
use tetrad::train::Trainer;

fn main() {
    // Kernels are called from inside the pool, as the program does it.
    rayon::ThreadPoolBuilder::new().build().expect("threads").install(divan::main);
}

/// `steps` of them before those that are timed.
fn run(bencher: Bencher, config: &Config, steps: usize) {
    let mut trainer = Trainer::new(config, Box::new(Cpu::new())).unwrap();
    trainer.initialize();
    let tokens = config.train.batch * config.train.sequence;
    let corpus = include_bytes!("../assets/corpus/austen.txt");
    let inputs: Vec<u32> = corpus[..tokens].iter().map(|&b| b.into()).collect();
    let targets: Vec<u32> = corpus[1..=tokens].iter().map(|&b| b.into()).collect();
    let first = trainer.step(&inputs, &targets).loss;
    let last = (0..steps).map(|_| trainer.step(&inputs, &targets).loss).last().unwrap_or(f64::NAN);
    let even = (config.model.vocab as f64).ln();
    assert!((first - even).abs() < 0.3 && last < first - 0.5, "loss from {first} to {last}");
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
    run(bencher, &quickstart(), 20);
}

/// `activations.compute = "bf16"`, here and below.
#[divan::bench(sample_count = 40)]
fn quickstart_bf16(bencher: Bencher) {
    run(bencher, &in_bf16(quickstart()), 20);
}

/// Forward products and gradients in integers, here and below.
#[divan::bench(sample_count = 40)]
fn quickstart_int8(bencher: Bencher) {
    run(bencher, &in_int8(quickstart()), 20);
}

#[divan::bench(sample_count = 40)]
fn quickstart_f32(bencher: Bencher) {
    let mut config = quickstart();
    let storage = &mut config.storage;
    (storage.weights, storage.embedding, storage.head) = (Weights::F32, TableStorage::F32, TableStorage::F32);
    (storage.m, storage.v) = (Moment::F32, SecondMoment::F32);
    run(bencher, &config, 20);
}

/// Rung L of benches/quality: 10.6 million parameters besides the tables.
fn ladder_l() -> Config {
    let mut config = quickstart();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (384, 1024, 6, 12, 12);
    model.vocab = 4096;
    (config.train.batch, config.train.sequence) = (16, 256);
    config
}

#[divan::bench(sample_count = 10)]
fn ladder_l_int4(bencher: Bencher) {
    run(bencher, &ladder_l(), 5);
}

#[divan::bench(sample_count = 10)]
fn ladder_l_bf16(bencher: Bencher) {
    run(bencher, &in_bf16(ladder_l()), 5);
}

#[divan::bench(sample_count = 10)]
fn ladder_l_int8(bencher: Bencher) {
    run(bencher, &in_int8(ladder_l()), 5);
}

/// The preset with a batch of 4 x 256 tokens.
fn preset_60m() -> Config {
    let mut config = Config::preset("60m").expect("there is one");
    (config.train.warmup, config.train.batch, config.train.sequence) = (5, 4, 256);
    config
}

#[divan::bench(sample_count = 6)]
fn preset_60m_int4(bencher: Bencher) {
    run(bencher, &preset_60m(), 5);
}

#[divan::bench(sample_count = 6)]
fn preset_60m_bf16(bencher: Bencher) {
    run(bencher, &in_bf16(preset_60m()), 5);
}

#[divan::bench(sample_count = 6)]
fn preset_60m_int8(bencher: Bencher) {
    run(bencher, &in_int8(preset_60m()), 5);
}

/// With a head in bytes, whose products are in integers then.
#[divan::bench(sample_count = 6)]
fn preset_60m_int8_head(bencher: Bencher) {
    let mut config = in_int8(preset_60m());
    config.storage.head = TableStorage::Int8;
    run(bencher, &config, 5);
}

fn in_int8(mut config: Config) -> Config {
    let activations = &mut config.activations;
    activations.compute = Compute::Int8;
    (activations.compute_grad_input, activations.compute_grad_weight) = (GradCompute::Int8, GradCompute::Int8);
    config
}

fn in_bf16(mut config: Config) -> Config {
    config.activations.compute = Compute::Bf16;
    config
}
