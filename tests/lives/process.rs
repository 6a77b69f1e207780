//! A process that trains, as the program does it: lock, newest sound checkpoint, text, state, steps.

use super::machine::{Done, Simulated};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Checkpoint, Extent, Newest, RunFolder, TOKENIZER, checkpoint_path, newest_sound, set_aside};
use tetrad::config::Config;
use tetrad::data::Prepared;
use tetrad::error::{BackendError, CheckpointError, DataError, StartError, StoreError};
use tetrad::store::{Lock, create_folder, remove_stale};
use tetrad::train::{Line, Observer, Samples, StepReport, StopReason, Trainer, Validation, run};

/// Steps of a run.
pub const STEPS: u64 = 12;

/// Steps between two checkpoints, and what else that may be: it changes no weight.
pub const CADENCES: [u64; 2] = [3, 4];

/// A tokenizer of 28 characters, so that the model's tables are small.
fn tokenizer() -> String {
    // As GPT-2 writes a space.
    let characters = ('a'..='z').chain(['\u{120}', '.']);
    let vocab: serde_json::Map<_, _> =
        characters.enumerate().map(|(id, character)| (character.to_string(), id.into())).collect();
    let model = serde_json::json!({ "type": "BPE", "vocab": vocab, "merges": [] });
    let bytes = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": bytes, "decoder": bytes, "model": model,
    });
    json.to_string()
}

/// Puts text and tokenizer into a folder; the configuration of a run there.
pub fn begin(root: &Path) -> Config {
    let text = "to be or not to be. that is the question ".repeat(12);
    fs::write(root.join("text.txt"), text).unwrap();
    fs::write(root.join("tokenizer.json"), tokenizer()).unwrap();
    let mut config = Config::default();
    let model = &mut config.model;
    (model.vocab, model.hidden, model.intermediate, model.layers) = (32, 32, 32, 1);
    (model.heads, model.kv_heads, model.context, config.storage.group) = (2, 1, 16, 32);
    let train = &mut config.train;
    (train.steps, train.batch, train.sequence, train.warmup) = (STEPS, 2, 8, 2);
    (train.checkpoint_every, train.keep, train.sample_tokens, train.audit_every) = (CADENCES[0], 3, 0, 0);
    (train.eval_every, train.eval_sequences, train.keep_best) = (2, 2, true);
    config.data.validation_fraction = 0.1;
    config.data.train = vec![root.join("text.txt").display().to_string()];
    config.data.cache = root.join("cache");
    config.tokenizer.file = Some(root.join("tokenizer.json"));
    config.run.dir = root.join("run-0");
    config.validate().unwrap();
    config
}

/// Why a process ended otherwise than it should.
#[derive(Debug)]
pub enum Ended {
    /// What the library said.
    Said(String),
    /// Every checkpoint is damaged.
    AllDamaged,
    /// The checkpoint is that of another run.
    Differs(String),
    /// What it did is wrong.
    Wrong(String),
}

/// An error of the library's, in its words.
macro_rules! said {
    ($($error:ty),*) => {
        $(impl From<$error> for Ended {
            fn from(error: $error) -> Self {
                Ended::Said(error.to_string())
            }
        })*
    };
}

said!(BackendError, DataError, StartError, StoreError);

impl From<CheckpointError> for Ended {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::AllDamaged { .. } => Ended::AllDamaged,
            CheckpointError::Differs { .. } => Ended::Differs(error.to_string()),
            error => Ended::Said(error.to_string()),
        }
    }
}

/// What a process goes on from.
pub enum Resume {
    /// The newest sound checkpoint, or nothing.
    Newest,
    /// The checkpoint of this step.
    Step(u64),
}

/// A process that trains.
pub struct Process {
    pub trainer: Trainer,
    samples: Samples,
    folder: RunFolder,
    /// The step that it went on from, and what it did not take.
    pub went_on: Option<u64>,
    pub skipped: Vec<String>,
    _lock: Lock,
}

/// What the loop reports to, as the program's console without the console.
struct Saver<'p> {
    folder: &'p mut RunFolder,
    machine: &'p Simulated,
    saves: bool,
}

impl Observer for Saver<'_> {
    type Error = Ended;

    fn on_step(&mut self, _: &Trainer, report: &StepReport, _: Duration) -> Result<(), Ended> {
        // Without times, which differ.
        Ok(self.folder.write(&Line::of_step(report, f64::NAN, None))?)
    }

    fn on_validation(&mut self, validation: &Validation) -> Result<(), Ended> {
        Ok(self.folder.write(&Line { step: validation.step, val_loss: Some(validation.loss), ..Line::default() })?)
    }

    fn sample(&mut self, _: &mut Trainer) -> Result<(), Ended> {
        Ok(())
    }

    fn save(&mut self, trainer: &Trainer) -> Result<(), Ended> {
        let (step, train) = (trainer.counters().step, &trainer.config().train);
        if self.saves || step.is_multiple_of(train.checkpoint_every) || step == train.steps {
            self.folder.save(trainer)?;
            self.machine.note(Done::Saved(step));
        }
        Ok(())
    }

    fn save_best(&mut self, trainer: &Trainer) -> Result<(), Ended> {
        Ok(self.folder.save_best(trainer)?)
    }
}

/// The checkpoint to go on from.
pub fn find(dir: &Path, from: &Resume) -> Result<Option<Newest>, CheckpointError> {
    match from {
        _ if !dir.is_dir() => Ok(None),
        Resume::Newest => newest_sound(dir),
        Resume::Step(step) => {
            let checkpoint = Checkpoint::open_sound(&checkpoint_path(dir, *step))?;
            Ok(Some(Newest { checkpoint, damaged: Vec::new() }))
        }
    }
}

impl Process {
    /// Begins a run or goes on with one.
    pub fn start(config: &Config, from: &Resume, machine: &Arc<Simulated>) -> Result<Self, Ended> {
        let dir = &config.run.dir;
        let failed = |e| StoreError::io(dir, "create it", e);
        create_folder(dir).map_err(failed)?;
        let lock = Lock::acquire(dir.join(".lock"))?;
        let found = find(dir, from)?;
        let data = Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut |_| {})?;
        let (sequence, sequences) = (config.train.sequence, config.train.eval_sequences);
        let samples =
            Samples { train: data.batches(sequence, config.run.seed)?, validation: data.windows(sequence, sequences)? };
        remove_stale(dir)?;
        if let Some(found) = &found {
            found.checkpoint.check_run(config, &data.fingerprint)?;
        }
        let mut trainer = Trainer::new(config, Box::new(Cpu::new()))?;
        let mut skipped = Vec::new();
        match &found {
            None => trainer.initialize(),
            Some(found) => {
                found.checkpoint.restore(&mut trainer, &data.fingerprint)?;
                for (path, error) in &found.damaged {
                    set_aside(path)?;
                    skipped.push(error.to_string());
                }
            }
        }
        let attachments = vec![(TOKENIZER, data.tokenizer.json().expect("it has one").to_vec())];
        let folder = RunFolder::open(config, trainer.counters().step, &data.fingerprint, attachments)?;
        if found.is_none() {
            folder.save(&trainer)?;
            machine.note(Done::Saved(0));
        }
        let went_on = found.map(|found| found.checkpoint.meta.counters.step);
        Ok(Self { trainer, samples, folder, went_on, skipped, _lock: lock })
    }

    /// Takes steps until so many are done; `saves` in the end, as a signal makes it.
    pub fn steps(&mut self, until: u64, saves: bool, machine: &Simulated) -> Result<StopReason, Ended> {
        let mut saver = Saver { folder: &mut self.folder, machine, saves };
        run(&mut self.trainer, &self.samples, until, &AtomicBool::new(false), &mut saver)
    }

    /// Writes a checkpoint, as a signal makes it.
    pub fn save(&self, machine: &Simulated) -> Result<(), Ended> {
        self.folder.save(&self.trainer)?;
        machine.note(Done::Saved(self.trainer.counters().step));
        Ok(())
    }

    /// Writes a checkpoint elsewhere.
    pub fn save_to(&self, path: &Path) -> Result<(), Ended> {
        Ok(self.folder.save_to(&self.trainer, Extent::Full, path)?)
    }
}
