//! First values of all parameters of a model, per weight: random numbers, their encoding, and the state set to zero.

use divan::Bencher;
use divan::counter::ItemsCount;
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::config::Config;
use tetrad::model::Weights;
use tetrad::train::Trainer;

fn main() {
    divan::main();
}

fn initialize(bencher: Bencher, threads: usize, weights: Weights) {
    let mut config = Config::preset("60m").expect("a preset of that name");
    config.storage.weights = weights;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let mut trainer = Trainer::new(&config, Box::new(Cpu::with_threads(Isa::best(), threads))).expect("a trainer");
    let count: usize = trainer.model().stored.iter().map(|param| param.weight.shape.len()).sum();
    bencher.counter(ItemsCount::new(count)).bench_local(|| pool.install(|| trainer.initialize()));
}

#[divan::bench(args = [1, 2], sample_count = 7)]
fn int4(bencher: Bencher, threads: usize) {
    initialize(bencher, threads, Weights::Int4);
}

#[divan::bench(args = [1, 2], sample_count = 7)]
fn f32(bencher: Bencher, threads: usize) {
    initialize(bencher, threads, Weights::F32);
}
