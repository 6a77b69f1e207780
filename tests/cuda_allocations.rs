//! One allocation of device memory serves a whole run. Alone in its process, whose allocations are counted.

mod common;

use common::rig;
use std::path::Path;
use tetrad::backend::Backend;
use tetrad::checkpoint::{Extent, Meta, save};
use tetrad::config::Config;
use tetrad::model::Generator;
use tetrad::train::Trainer;

fn config() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (64, 120, 2, 4, 2);
    (config.train.batch, config.train.sequence, config.train.warmup) = (3, 33, 2);
    config.storage.group = 32;
    config
}

fn trainer(config: &Config, backend: Box<dyn Backend>) -> Trainer {
    let mut trainer = Trainer::new(config, backend).unwrap();
    trainer.initialize();
    trainer
}

/// The text of step `number`.
fn batch(number: u32) -> (Vec<u32>, Vec<u32>) {
    let text: Vec<u32> = (0..100).map(|i| (i * i + number * 31) % 256).collect();
    (text[..99].to_vec(), text[1..].to_vec())
}

fn write(trainer: &Trainer, path: &Path) {
    let meta = Meta::new(trainer.config(), trainer.counters, false, "text");
    save(&trainer.model, trainer.backend.as_ref(), &meta, None, Extent::Full, path).unwrap();
}

/// One allocation for steps, evaluation, a sample and a save.
#[test]
fn nothing_is_allocated_on_the_device_after_the_arena() {
    if common::gpu::required() {
        // The driver's own figures stand in the report of benches/gpu.sh.
        eprintln!("SKIPPED: only the emulated driver counts allocations");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let before = tetrad_emulator::allocations();
    let mut cuda = trainer(&config(), Box::new(rig::open()));
    assert_eq!(tetrad_emulator::allocations() - before, 1, "the arena");
    let (inputs, targets) = batch(1);
    for _ in 0..2 {
        cuda.step(&inputs, &targets);
        cuda.evaluate(3, &inputs, &targets);
        let model = cuda.model.clone();
        Generator::new(&model).feed(cuda.backend.as_mut(), &[1, 2, 3]);
        write(&cuda, &folder.path().join("checkpoint"));
    }
    assert_eq!(cuda.backend.status(), Ok(()));
    assert_eq!(tetrad_emulator::allocations() - before, 1, "after the arena");
}
