//! Whole training steps: tokens per second, and memory as the driver sees it beside the plan.

use crate::harness::words;
use crate::report::Ceilings;
use std::time::Instant;
use tetrad::backend::cuda::Cuda;
use tetrad::checkpoint::{Extent, Meta, save};
use tetrad::config::Config;
use tetrad::model::ActivationCheckpointing;
use tetrad::train::Trainer;

/// Presets and tokens of a batch.
const STEPS: [(&str, usize); 9] = [
    ("60m", 8192),
    ("60m", 32768),
    ("130m", 8192),
    ("130m", 32768),
    ("350m", 8192),
    ("350m", 32768),
    ("1b", 8192),
    ("1b", 16384),
    ("1b", 32768),
];
const SMALL: [(&str, usize); 1] = [("quickstart", 128)];

/// Tokens per second for presets and batches.
pub fn steps(ceilings: &Ceilings, small: bool) {
    println!("| preset | tokens per step | activations | ms | tokens/s | model FLOPs utilisation |");
    println!("| --- | ---: | --- | ---: | ---: | ---: |");
    for &(preset, tokens) in if small { &SMALL[..] } else { &STEPS } {
        step(preset, tokens, ceilings);
    }
    println!();
}

/// A trainer on random tokens, and one batch of them.
fn trainer(preset: &str, tokens: usize) -> (Trainer, Vec<u32>) {
    let mut config = Config::preset(preset).expect("a preset");
    config.train.batch = tokens / config.train.sequence;
    let device = Cuda::open(0).expect("a device");
    let needed = tetrad::train::plan(&config, &device).0.total() as u64;
    if device.check_memory(needed).is_err() {
        config.run.activation_checkpointing = ActivationCheckpointing::Block;
    }
    let vocab = config.model.vocab as u32;
    let mut trainer = Trainer::new(&config, Box::new(device)).expect("memory");
    trainer.initialize();
    (trainer, words(1, tokens + 1).map(|word| word % vocab).collect())
}

fn step(preset: &str, tokens: usize, ceilings: &Ceilings) {
    let (mut trainer, text) = trainer(preset, tokens);
    let (inputs, targets) = (&text[..tokens], &text[1..]);
    for _ in 0..3 {
        trainer.step(inputs, targets);
    }
    let mut times = Vec::new();
    for _ in 0..8 {
        let begun = Instant::now();
        let report = trainer.step(inputs, targets);
        times.push(begun.elapsed().as_secs_f64());
        assert!(report.loss.is_finite() && trainer.backend().status() == Ok(()));
    }
    times.sort_by(f64::total_cmp);
    let seconds = times[times.len() / 2];
    let config = trainer.config();
    // 6 per weight of a product and token; attention: 12 per layer, hidden and key, of which the causal half is done.
    let tables = config.model.vocab * config.model.hidden;
    let weights = config.model.parameters() as f64 - if config.model.tied { 0.0 } else { tables as f64 };
    let attention = 6.0 * (config.model.layers * config.model.hidden * config.train.sequence) as f64;
    let work = tokens as f64 * (6.0 * weights + attention);
    println!(
        "| {preset} | {tokens} | {} | {:.1} | {:.0} | {:.0} % |",
        if config.run.activation_checkpointing == ActivationCheckpointing::None { "none" } else { "block" },
        seconds * 1e3,
        tokens as f64 / seconds,
        100.0 * work / seconds / ceilings.product
    );
}

/// Bytes in use on the device before the arena, with it, after a step, an evaluation and a save.
pub fn memory(small: bool) {
    println!("| preset | plan | before | with the arena | after a step | after an evaluation | after a save |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let watch = Cuda::open(0).expect("a device");
    let used = || {
        let (free, total) = watch.memory().expect("the driver's figures");
        format!("{:.1} MiB", (total - free) as f64 / f64::from(1 << 20))
    };
    let folder = tempfile::tempdir().expect("a folder");
    for &(preset, tokens) in if small { &SMALL[..] } else { &[("60m", 8192), ("350m", 8192), ("1b", 8192)] } {
        let before = used();
        let (mut trainer, text) = trainer(preset, tokens);
        let mut row = vec![before, used()];
        let (inputs, targets) = (&text[..tokens], &text[1..]);
        trainer.step(inputs, targets);
        row.push(used());
        trainer.evaluate(trainer.config().train.batch, inputs, targets);
        row.push(used());
        let meta = Meta::new(trainer.config(), trainer.counters(), false, "random");
        let path = folder.path().join(preset);
        save(trainer.model(), trainer.backend(), &meta, None, Extent::Full, &path).expect("a saved state");
        row.push(used());
        let plan = trainer.plan().total() as f64 / f64::from(1 << 20);
        println!("| {preset} | {plan:.1} MiB | {} |", row.join(" | "));
    }
    println!();
}
