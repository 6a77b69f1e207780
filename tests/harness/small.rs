//! A run so small that an emulated device makes its steps in tenths of a second.

use std::path::Path;
use tetrad::backend::Backend;
use tetrad::checkpoint::{Extent, Meta, save_divided};
use tetrad::config::Config;
use tetrad::train::Trainer;

/// Two blocks with grouped queries, and rows that are no multiples of a group.
pub fn config() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (64, 120, 2, 4, 2);
    (config.train.batch, config.train.sequence, config.train.warmup) = (3, 33, 2);
    config.storage.group = 32;
    config
}

/// A model with its first values.
pub fn trainer(config: &Config, backend: Box<dyn Backend>) -> Trainer {
    let mut trainer = Trainer::new(config, backend).unwrap();
    trainer.initialize();
    trainer
}

/// The text of step `number`.
pub fn batch(number: u32) -> (Vec<u32>, Vec<u32>) {
    let text: Vec<u32> = (0..100).map(|i| (i * i + number * 31) % 256).collect();
    (text[..99].to_vec(), text[1..].to_vec())
}

/// Saves all that resuming needs.
pub fn write(trainer: &Trainer, path: &Path) {
    let meta = Meta::new(trainer.config(), trainer.counters(), false, "text");
    save_divided(trainer, &meta, &[], Extent::Full, path).unwrap();
}
