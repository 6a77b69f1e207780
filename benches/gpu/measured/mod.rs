//! What a GPU does: every kernel beside what the device can do, whole steps, memory. Prints Markdown, row by row, so that
//! what was measured is there when time runs out.
//!
//! The benchmark is this module alone; tests/cuda has it run small on the emulated device.

mod attention;
mod kernels;
mod operands;
mod profile;
mod report;
mod rows;
mod training;

use crate::harness::operands::Harness;
use report::{Ceilings, Table};
use tetrad::backend::cuda::Cuda;
use tetrad::backend::prelude::*;
use tetrad::backend::{Accumulate, Compute, MaxShapes};
use tetrad::quant::WeightFormat;

/// What is measured: the shapes of a model and of its batch.
#[derive(Clone, Copy)]
struct Sizes {
    /// Tokens of a batch, and those whose logits exist at once.
    tokens: usize,
    chunk: usize,
    hidden: usize,
    intermediate: usize,
    vocab: usize,
    /// Tokens of a sequence: as presets have them, and where attention is most of the work.
    sequences: [usize; 2],
    /// Elements of the copy and edge of the product that are the ceilings.
    copied: usize,
    edge: usize,
    /// Bytes that a cache does not hold: operands that are touched once are as many.
    uncached: usize,
    /// Runs before those that count, and those.
    runs: [usize; 2],
}

impl Sizes {
    /// The 1b preset.
    const FULL: Self = Self {
        tokens: 16384,
        chunk: 4096,
        hidden: 2048,
        intermediate: 5461,
        vocab: 32_000,
        sequences: [256, 2048],
        copied: 1 << 29,
        edge: 8192,
        uncached: 256 << 20,
        runs: [3, 15],
    };
    /// Whether the program works, on a device of any speed, the emulated one included.
    const SMALL: Self = Self {
        tokens: 64,
        chunk: 32,
        hidden: 128,
        intermediate: 85,
        vocab: 96,
        sequences: [16, 32],
        copied: 1 << 12,
        edge: 64,
        uncached: 1 << 10,
        runs: [1, 1],
    };

    fn largest(&self, tokens: usize, features: usize) -> MaxShapes {
        let Self { hidden, intermediate, vocab, sequences, .. } = *self;
        let inputs = intermediate.next_multiple_of(PADDED).max(hidden);
        MaxShapes {
            tokens,
            features,
            inputs,
            keys: sequences[1],
            parameter: vocab * inputs,
            head_dim: 128,
            prefix: 0,
            compute: Compute::F32,
        }
    }

    /// Median of many runs, in seconds.
    fn time(&self, cuda: &mut Cuda, mut work: impl FnMut(&mut Cuda)) -> f64 {
        for _ in 0..self.runs[0] {
            work(cuda);
        }
        let mut times: Vec<f64> = (0..self.runs[1]).map(|_| cuda.time(&mut work).expect("time")).collect();
        times.sort_by(f64::total_cmp);
        assert_eq!(cuda.status(), Ok(()));
        times[times.len() / 2]
    }
}

/// The width that the 1b preset's 5461 is measured beside is the next multiple of this.
const PADDED: usize = 64;

/// Parts: kernels, steps, memory, profile (every kernel once, for a profiler); `small` makes every shape small.
///
/// # Panics
/// If a result is wrong, or a part is unknown.
pub fn run(chosen: &[String]) {
    let small = chosen.iter().any(|name| name == "small");
    let sizes = if small { Sizes::SMALL } else { Sizes::FULL };
    for part in chosen.iter().filter(|name| *name != "small") {
        match part.as_str() {
            "kernels" => kernels(&sizes),
            "steps" => training::steps(&told(&sizes), small),
            "memory" => training::memory(small),
            "profile" => profile::profile(&sizes),
            _ => panic!("{part}: not one of kernels, steps, memory, profile"),
        }
    }
}

fn kernels(sizes: &Sizes) {
    let mut table = Table::begin(told(sizes));
    kernels::optimizer(&mut table, sizes);
    kernels::products(&mut table, sizes);
    kernels::products_of_bytes(&mut table, sizes);
    attention::attention(&mut table, sizes);
    rows::rows(&mut table, sizes);
    kernels::small_batch(&mut table, sizes);
    println!();
}

/// The ceilings, printed.
fn told(sizes: &Sizes) -> Ceilings {
    println!("Device: {}\n", Cuda::open(0).expect("a device").describe());
    let ceilings = ceilings(sizes);
    println!("Device copy: {:.0} GB/s (read and written). ", ceilings.copy / 1e9);
    println!("cuBLASLt, bf16, {}^3: {:.0} TFLOP/s.\n", sizes.edge, ceilings.product / 1e12);
    ceilings
}

/// Copy bandwidth and cuBLASLt's rate.
fn ceilings(sizes: &Sizes) -> Ceilings {
    let mut harness = Harness::default();
    let (from, to) = (harness.random_activations(1, sizes.copied), harness.unfilled(2 * sizes.copied));
    let n = sizes.edge;
    let (x, w, y) = (
        harness.random_activations(2, n * n),
        harness.random_weight(n, n, WeightFormat::BF16),
        harness.unfilled(2 * n * n),
    );
    let mut cuda = harness.open(&sizes.largest(n, n));
    let copy = 2.0 * from.bytes as f64 / sizes.time(&mut cuda, |cuda| cuda.copy(from, to));
    let product = 2.0 * (n as f64).powi(3) / sizes.time(&mut cuda, |cuda| cuda.linear(x, &w, y, Accumulate::No));
    Ceilings { copy, product, edge: n }
}
