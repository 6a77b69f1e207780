//! Trains a small model on the bundled text, samples from it and saves it.
//!
//! ```sh
//! cargo run --release --example train
//! ```

use std::error::Error;
use std::path::Path;
use tetrad::checkpoint::{Extent, Meta, save};
use tetrad::data::{Prepared, Tokenizer};
use tetrad::model::{Generator, Sampling};
use tetrad::{Config, Cpu, Trainer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    // A quarter of the quick-start's matrices.
    (config.model.hidden, config.model.intermediate) = (64, 172);
    config.train.steps = 100;
    config.train.warmup = 10;
    config.validate()?;
    let cpu = Cpu::new();
    // Options that the configuration leaves open, such as micro-batches, are chosen for the device.
    let config = tetrad::train::fastest(&config, &cpu);

    // Text is tokenized once and kept in `data.cache`; batches are a function of the position in it.
    let data = Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut |_| ())?;
    let batches = data.batches(config.train.sequence, config.run.seed)?;
    let tokens = config.train.batch * config.train.sequence;
    let (mut inputs, mut targets) = (vec![0; tokens], vec![0; tokens]);

    // One allocation of the planned size; nothing is allocated afterwards.
    let mut trainer = Trainer::new(&config, Box::new(cpu))?;
    trainer.initialize();
    while trainer.counters().step < config.train.steps {
        batches.fill(trainer.counters().position, &mut inputs, &mut targets);
        let report = trainer.step(&inputs, &targets);
        if report.step.is_multiple_of(10) {
            println!("step {}  loss {:.4}  lr {:.2e}", report.step, report.loss, report.lr);
        }
    }
    println!("{}", continued(&mut trainer, &data.tokenizer, "It was ")?);

    let path = Path::new("runs/example.tetrad");
    let meta = Meta::new(trainer.config(), trainer.counters(), data.tokenizer.json().is_some(), &data.fingerprint);
    save(trainer.model(), trainer.backend(), &meta, data.tokenizer.json(), Extent::Weights, path)?;
    println!("saved as {}", path.display());
    Ok(())
}

/// `prompt` and 100 more tokens.
fn continued(trainer: &mut Trainer, tokenizer: &Tokenizer, prompt: &str) -> Result<String, Box<dyn Error>> {
    let sampling = Sampling { temperature: 0.8, top_p: 0.95, ..Sampling::default() };
    let mut ids = tokenizer.encode(prompt)?;
    let (model, backend) = trainer.model_and_backend();
    let mut generator = Generator::new(model);
    generator.feed(backend, &ids);
    for _ in 0..100 {
        let id = generator.sample(&sampling).ok_or("the model diverged")?;
        ids.push(id);
        generator.feed(backend, &[id]);
    }
    Ok(tokenizer.decode(&ids))
}
