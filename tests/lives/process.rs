//! A process that trains, as the program does it: names, configuration, lock, checkpoint, text, state, steps.

use super::machine::{Done, Simulated};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Extent, Named, RunFolder, TOKENIZER, checkpoint_path, write_record};
use tetrad::config::{Config, OnSpike, RECORD};
use tetrad::data::Prepared;
use tetrad::error::{BackendError, CheckpointError, ConfigError, DataError, StartError, StoreError};
use tetrad::store::{Lock, create_folder, remove_stale};
use tetrad::train::{Line, Observer, Samples, Spike, StepReport, StopReason, Trainer, Validation, run};

/// Steps of a run.
pub const STEPS: u64 = 12;

/// Steps between two checkpoints, and what else that may be: it changes no weight.
pub const CADENCES: [u64; 2] = [3, 4];

/// Where the noise is in a watched text.
const NOISE: [usize; 2] = [120, 290];

/// What is a spike there.
const SPIKE_Z: f64 = 8.0;

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

/// A kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of an easy text.
    Plain,
    /// Of a text with noise in it, watched: it goes back, and leaves the noise out.
    Watched,
}

/// Puts text and tokenizer into a folder; the configuration of a run there.
pub fn begin(root: &Path, kind: Kind) -> Config {
    let mut text = "to be or not to be. that is the question ".repeat(12);
    if kind == Kind::Watched {
        text = "to be. ".repeat(70);
        for at in NOISE {
            text.replace_range(at..at + 24, "zqxjkvwzxqjvkzwqxzjvkqwx");
        }
    }
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
    if kind == Kind::Watched {
        config.optimizer.lr = 0.03;
        (train.spike_z, train.spike_window, train.on_spike, train.max_rewinds) = (SPIKE_Z, 3, OnSpike::Rewind, 9);
    }
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
    /// A checkpoint was named that is not the last.
    NotLast,
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

said!(BackendError, ConfigError, DataError, StartError, StoreError);

impl From<CheckpointError> for Ended {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::AllDamaged { .. } => Ended::AllDamaged,
            CheckpointError::Differs { .. } => Ended::Differs(error.to_string()),
            CheckpointError::NotLast { .. } => Ended::NotLast,
            error => Ended::Said(error.to_string()),
        }
    }
}

/// How a process is told what run to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// By the configuration that began it.
    Same,
    /// By its folder.
    Folder,
    /// By the configuration in its folder.
    Record,
    /// By the checkpoint of this step.
    Step(u64),
}

impl Name {
    /// The configuration of the run that it names, changed by `sets`; `given` is the one that began it, changed already.
    fn load(self, given: &Config, sets: &[String]) -> Result<(Config, Named), Ended> {
        let dir = &given.run.dir;
        let config = match self {
            Name::Same => None,
            Name::Folder => Some(dir.clone()),
            Name::Record => Some(dir.join(RECORD)),
            Name::Step(step) => Some(checkpoint_path(dir, step)),
        };
        let named = Named::of(config.as_deref().and_then(Path::to_str), Some("auto"))?;
        if self == Name::Same {
            return Ok((given.clone(), named));
        }
        let (base, source) = (named.base()?.unwrap_or_default(), named.source());
        let load = |sets| Config::load_over(base.clone(), source.as_deref(), sets);
        let recorded = load(&[])?.run.dir;
        let mut config = load(sets)?;
        named.place(&mut config, &recorded, false);
        Ok((config, named))
    }
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
    /// Whether it stops wherever it went back to.
    pauses: bool,
    stop: &'p AtomicBool,
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

    fn go_back(&mut self, trainer: &mut Trainer, spike: &Spike) -> Result<bool, Ended> {
        let at = trainer.counters().step;
        let Some(step) = self.folder.go_back(trainer)? else { return Ok(false) };
        let event = Some(format!("{} of step {at} is left out", spike.what));
        self.folder.write(&Line { step, event, ..Line::default() })?;
        self.stop.store(self.pauses, Ordering::SeqCst);
        Ok(true)
    }
}

impl Process {
    /// Begins a run or goes on with one.
    pub fn start(given: &Config, machine: &Arc<Simulated>) -> Result<Self, Ended> {
        Self::start_named(given, Name::Same, &[], machine)
    }

    /// The same, named otherwise.
    pub fn start_named(given: &Config, name: Name, sets: &[String], machine: &Arc<Simulated>) -> Result<Self, Ended> {
        let (mut config, named) = name.load(given, sets)?;
        if config != *given {
            return Err(Ended::Wrong(format!("{name:?} is a run of\n{}not of\n{}", config.to_toml(), given.to_toml())));
        }
        let dir = config.run.dir.clone();
        create_folder(&dir).map_err(|e| StoreError::io(&dir, "create it", e))?;
        let lock = Lock::acquire(dir.join(".lock"))?;
        let mut found = named.resume.as_ref().expect("it is named").find(&dir)?;
        if let Some(found) = &found {
            found.checkpoint.complete(&mut config)?;
        }
        let config = &config;
        let data = Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut |_| {})?;
        let (sequence, sequences) = (config.train.sequence, config.train.eval_sequences);
        let samples =
            Samples { train: data.batches(sequence, config.run.seed)?, validation: data.windows(sequence, sequences)? };
        remove_stale(&dir)?;
        if let Some(found) = &mut found {
            found.checkpoint.check_run(config, &data.fingerprint)?;
            found.check_last(&dir)?;
        }
        let mut trainer = Trainer::new(config, Box::new(Cpu::new()))?;
        let mut skipped = Vec::new();
        match &found {
            None => trainer.initialize(),
            Some(found) => {
                found.checkpoint.restore(&mut trainer, &data.fingerprint)?;
                skipped.extend(found.set_aside()?.into_iter().map(|(_, error)| error.to_string()));
            }
        }
        let attachments = vec![(TOKENIZER, data.tokenizer.json().expect("it has one").to_vec())];
        write_record(config)?;
        let folder = RunFolder::open(&trainer, &data.fingerprint, attachments)?;
        if found.is_none() {
            folder.save(&trainer)?;
            machine.note(Done::Saved(0));
        }
        let went_on = found.map(|found| found.checkpoint.meta.counters.step);
        Ok(Self { trainer, samples, folder, went_on, skipped, _lock: lock })
    }

    /// Takes steps until so many are done; `saves` in the end, as a signal makes it.
    pub fn steps(&mut self, until: u64, saves: bool, machine: &Simulated) -> Result<StopReason, Ended> {
        self.go(until, saves, false, machine)
    }

    /// Takes one step, or goes back, and saves.
    pub fn next(&mut self, machine: &Simulated) -> Result<StopReason, Ended> {
        self.go(self.trainer.counters().step + 1, true, true, machine)
    }

    fn go(&mut self, until: u64, saves: bool, pauses: bool, machine: &Simulated) -> Result<StopReason, Ended> {
        let stop = AtomicBool::new(false);
        let mut saver = Saver { folder: &mut self.folder, machine, saves, pauses, stop: &stop };
        run(&mut self.trainer, &self.samples, until, &stop, &mut saver)
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
