//! One life: a folder, perhaps a trainer, and what the undisturbed run says about both.

use super::plan::{Change, Damage, Verb};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{
    Checkpoint, Extent, Meta, checkpoint_path, clear, list, newest_sound, prune, save, set_aside,
};
use tetrad::config::Config;
use tetrad::convert::{GgufTypes, export_gguf};
use tetrad::data::Prepared;
use tetrad::error::{BackendError, CheckpointError};
use tetrad::model::{ActivationCheckpointing, TableStorage};
use tetrad::store::remove_stale;
use tetrad::train::{Observer, Samples, StepReport, StopReason, Trainer, Validation, run};

/// Steps of a run.
const STEPS: u64 = 12;

fn config() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (32, 40, 1, 2, 1);
    (model.context, config.storage.group) = (16, 32);
    let train = &mut config.train;
    (train.steps, train.batch, train.sequence, train.warmup) = (STEPS, 2, 8, 2);
    (train.checkpoint_every, train.keep, train.sample_tokens, train.audit_every) = (3, 3, 0, 0);
    config.data.validation_fraction = 0.0;
    config
}

/// The undisturbed run: its checkpoint after every step.
pub struct Shadow {
    files: Vec<Vec<u8>>,
    export: Vec<Vec<u8>>,
    /// Puts a fault into every resumption.
    pub sabotage: bool,
    /// How often what was met.
    pub seen: RefCell<BTreeMap<&'static str, usize>>,
}

/// A folder in memory where there is one: saving waits for the disk.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Shadow {
    pub fn new() -> Self {
        let mut shadow = Shadow { files: Vec::new(), export: Vec::new(), sabotage: false, seen: RefCell::default() };
        let mut life = Life::begin(&shadow);
        life.start(1).unwrap();
        let (mut files, mut export) = (Vec::new(), Vec::new());
        for step in 0..=STEPS {
            let path = life.path.join("one.tetrad");
            life.write(&path).unwrap();
            files.push(fs::read(&path).unwrap());
            export.push(export_of(&path).unwrap());
            if step < STEPS {
                life.steps(1, false).unwrap();
            }
        }
        drop(life);
        (shadow.files, shadow.export) = (files, export);
        shadow
    }

    fn saw(&self, what: &'static str) {
        *self.seen.borrow_mut().entry(what).or_default() += 1;
    }
}

fn export_of(path: &std::path::Path) -> Result<Vec<u8>, String> {
    let checkpoint = Checkpoint::open(path).map_err(|e| e.to_string())?;
    let out = path.with_extension("gguf");
    let types = GgufTypes::default();
    export_gguf(&checkpoint, types, &out, &mut |_, _| {}).map_err(|e| e.to_string())?;
    let bytes = fs::read(&out).map_err(|e| e.to_string())?;
    fs::remove_file(&out).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// What a life is at the moment.
pub struct Life<'a> {
    shadow: &'a Shadow,
    _folder: tempfile::TempDir,
    /// The run directory, which moves about.
    path: PathBuf,
    moves: u32,
    config: Config,
    /// Settings that a resumption must refuse.
    foreign: Option<&'static str>,
    running: Option<(Trainer, Samples, String)>,
    threads: usize,
    /// Steps whose files were damaged.
    damaged: BTreeSet<u64>,
}

/// What went wrong in a run.
#[derive(Debug)]
struct Wrong(String);

impl From<BackendError> for Wrong {
    fn from(error: BackendError) -> Self {
        Wrong(error.to_string())
    }
}

impl From<String> for Wrong {
    fn from(error: String) -> Self {
        Wrong(error)
    }
}

/// Saves and prunes as the program does.
struct Saver<'l> {
    path: PathBuf,
    data: &'l str,
    cadence: bool,
}

impl Observer for Saver<'_> {
    type Error = Wrong;

    fn on_step(&mut self, _: &Trainer, report: &StepReport, _: Duration) -> Result<(), Wrong> {
        if report.loss.is_finite() { Ok(()) } else { Err(format!("step {} has no loss", report.step).into()) }
    }

    fn on_validation(&mut self, _: &Validation) -> Result<(), Wrong> {
        Ok(())
    }

    fn sample(&mut self, _: &mut Trainer) -> Result<(), Wrong> {
        Ok(())
    }

    fn save(&mut self, trainer: &Trainer) -> Result<(), Wrong> {
        let (step, config) = (trainer.counters().step, trainer.config());
        let wanted = config.train.checkpoint_every > 0 && step.is_multiple_of(config.train.checkpoint_every);
        if !self.cadence || !(wanted || step == config.train.steps) {
            return Ok(());
        }
        write(trainer, self.data, &checkpoint_path(&self.path, step))?;
        Ok(prune(&self.path, &config.train).map_err(|e| e.to_string())?)
    }
}

fn write(trainer: &Trainer, data: &str, path: &std::path::Path) -> Result<(), String> {
    // What may change during a run is no part of what is compared.
    let plain = Config { train: config().train, ..trainer.config().clone() };
    let meta = Meta::new(&plain, trainer.counters(), false, data);
    save(trainer.model(), trainer.backend(), &meta, None, Extent::Full, path).map_err(|e| e.to_string())
}

impl<'a> Life<'a> {
    pub fn begin(shadow: &'a Shadow) -> Self {
        let folder = folder();
        let path = folder.path().join("run-0");
        fs::create_dir(&path).unwrap();
        fs::write(folder.path().join("text.txt"), "to be or not to be, that is the question. ".repeat(20)).unwrap();
        let mut config = config();
        config.data.train = vec![folder.path().join("text.txt").display().to_string()];
        config.data.cache = folder.path().join("cache");
        let (running, damaged) = (None, BTreeSet::new());
        Life { shadow, _folder: folder, path, moves: 0, config, foreign: None, running, threads: 1, damaged }
    }

    /// Takes part in one event, and checks all that can be seen afterwards.
    pub fn take(&mut self, verb: Verb) -> Result<(), String> {
        match verb {
            Verb::Start { threads } => {
                self.running = None;
                self.start(threads)?;
            }
            Verb::Train { steps } => self.steps(steps, true)?,
            Verb::Stop => {
                if let Some((trainer, _, data)) = self.running.take() {
                    write(&trainer, &data, &checkpoint_path(&self.path, trainer.counters().step))?;
                    self.damaged.remove(&trainer.counters().step);
                }
            }
            Verb::Kill => self.running = None,
            Verb::KillInSave { percent } => self.kill_in_save(percent)?,
            Verb::Damage { newest, how, at } => self.damage(newest, how, at)?,
            Verb::Prune { keep } => {
                let train = tetrad::config::TrainConfig { keep, ..self.config.train.clone() };
                prune(&self.path, &train).map_err(|e| e.to_string())?;
            }
            Verb::Export => self.export()?,
            Verb::DropCache => {
                let _ = fs::remove_dir_all(&self.config.data.cache);
            }
            Verb::Move => {
                self.running = None;
                self.moves += 1;
                let to = self.path.with_file_name(format!("run-{}", self.moves));
                fs::rename(&self.path, &to).map_err(|e| e.to_string())?;
                self.path = to;
                self.shadow.saw("moved");
            }
            Verb::Change(change) => self.change(change),
        }
        self.check()
    }

    fn change(&mut self, change: Change) {
        let (config, plain) = (&mut self.config, config());
        match change {
            Change::MicroBatch => config.train.micro_batch = 1 - config.train.micro_batch,
            Change::Recompute => config.run.activation_checkpointing = ActivationCheckpointing::Block,
            Change::Cadence => config.train.checkpoint_every = 7 - config.train.checkpoint_every,
            Change::Seed => config.run.seed = 3 - config.run.seed,
            Change::Sequence => config.train.sequence = 12 - config.train.sequence,
            Change::Storage => {
                let other = if config.storage.embedding == TableStorage::Int8 {
                    TableStorage::Bf16
                } else {
                    TableStorage::Int8
                };
                config.storage.embedding = other;
            }
        }
        // The trainer that runs has its own; the next one meets the change.
        self.foreign = [
            (config.run.seed != plain.run.seed, "run.seed"),
            (config.storage != plain.storage, "storage.embedding"),
            (config.train.sequence != plain.train.sequence, "train.sequence"),
        ]
        .into_iter()
        .find_map(|(differs, key)| differs.then_some(key));
    }

    fn start(&mut self, threads: usize) -> Result<(), String> {
        self.threads = threads;
        remove_stale(&self.path).map_err(|e| e.to_string())?;
        let prepared = Prepared::new(&self.config.data, &self.config.tokenizer, self.config.model.vocab, &mut |_| {});
        let prepared = prepared.map_err(|e| e.to_string())?;
        let data = prepared.fingerprint.clone();
        let found = match newest_sound(&self.path) {
            Err(CheckpointError::AllDamaged { .. }) => {
                self.shadow.saw("all damaged");
                let sound = self.steps_there().into_iter().find(|step| !self.damaged.contains(step));
                return match sound {
                    Some(step) => Err(format!("step {step} is sound, and was refused")),
                    None => {
                        self.damaged.clear();
                        clear(&self.path).map_err(|e| e.to_string())
                    }
                };
            }
            found => found.map_err(|e| e.to_string())?,
        };
        let Some(newest) = found else {
            // A new run; one of other settings would be another run.
            if self.foreign.is_none() {
                let mut trainer = self.trainer()?;
                trainer.initialize();
                self.run_with(trainer, &prepared, data)?;
            }
            return Ok(());
        };
        let step = newest.checkpoint.meta.counters.step;
        let best = self.steps_there().into_iter().rfind(|step| !self.damaged.contains(step));
        if best != Some(step) {
            return Err(format!("went on from step {step}, and the newest sound one is {best:?}"));
        }
        match (newest.checkpoint.check_run(&self.config, &data), self.foreign) {
            (Err(error), Some(key)) if error.to_string().contains(key) => {
                self.shadow.saw("refused");
                return Ok(());
            }
            (Ok(()), None) => {}
            (outcome, foreign) => return Err(format!("a change of {foreign:?} gave {outcome:?}")),
        }
        let mut trainer = self.trainer()?;
        newest.checkpoint.restore(&mut trainer, &data).map_err(|e| e.to_string())?;
        for (path, _) in &newest.damaged {
            self.shadow.saw("damaged newest");
            set_aside(path).map_err(|e| e.to_string())?;
        }
        self.shadow.saw("resumed");
        if self.shadow.sabotage {
            let span = trainer.model().stored[0].weight.data;
            let mut byte = [0];
            trainer.backend().download(span.head(1), &mut byte);
            trainer.backend_mut().upload(&[byte[0] ^ 1], span.head(1));
        }
        self.run_with(trainer, &prepared, data)
    }

    fn trainer(&self) -> Result<Trainer, String> {
        Trainer::new(&self.config, Box::new(Cpu::new())).map_err(|e| e.to_string())
    }

    fn run_with(&mut self, trainer: Trainer, prepared: &Prepared, data: String) -> Result<(), String> {
        let train = prepared.batches(self.config.train.sequence, self.config.run.seed).map_err(|e| e.to_string())?;
        self.running = Some((trainer, Samples { train, validation: None }, data));
        Ok(())
    }

    fn steps(&mut self, count: u64, cadence: bool) -> Result<(), String> {
        let Some((trainer, samples, data)) = &mut self.running else { return Ok(()) };
        let until = trainer.counters().step + count;
        let mut saver = Saver { path: self.path.clone(), data, cadence };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build().map_err(|e| e.to_string())?;
        let reason = pool.install(|| run(trainer, samples, until, &AtomicBool::new(false), &mut saver));
        let reason = reason.map_err(|wrong| wrong.0)?;
        match reason {
            StopReason::Finished => self.shadow.saw("finished"),
            StopReason::Stopped => {}
            other => return Err(format!("ended with {other:?}")),
        }
        for step in self.steps_there() {
            let path = checkpoint_path(&self.path, step);
            // A file that was damaged may have been written anew.
            if self.damaged.contains(&step)
                && fs::read(path).is_ok_and(|bytes| bytes == self.shadow.files[step as usize])
            {
                self.damaged.remove(&step);
            }
        }
        Ok(())
    }

    fn write(&self, path: &std::path::Path) -> Result<(), String> {
        let (trainer, _, data) = self.running.as_ref().ok_or("no trainer")?;
        write(trainer, data, path)
    }

    fn kill_in_save(&mut self, percent: u64) -> Result<(), String> {
        let Some((trainer, _, _)) = self.running.take() else { return Ok(()) };
        let step = trainer.counters().step;
        let whole = &self.shadow.files[step as usize];
        let part = &whole[..whole.len() * percent as usize / 100];
        fs::write(self.path.join(format!(".step-{step:08}.tetrad.partial")), part).map_err(|e| e.to_string())?;
        self.shadow.saw("killed in a save");
        Ok(())
    }

    fn steps_there(&self) -> Vec<u64> {
        list(&self.path).unwrap().into_iter().map(|(step, _)| step).collect()
    }

    fn damage(&mut self, newest: bool, how: Damage, at: u64) -> Result<(), String> {
        let steps = self.steps_there();
        let Some(step) = (if newest { steps.last() } else { steps.first() }) else { return Ok(()) };
        let path = checkpoint_path(&self.path, *step);
        let mut bytes = fs::read(&path).map_err(|e| e.to_string())?;
        let len = bytes.len().max(1);
        let at = at as usize % len;
        match how {
            Damage::Delete => {
                self.damaged.remove(step);
                return fs::remove_file(&path).map_err(|e| e.to_string());
            }
            Damage::Flip => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (at % 8)),
            Damage::Cut => bytes.truncate(at),
            Damage::Empty => bytes.clear(),
            Damage::Zeros => bytes.iter_mut().skip(at).take(64).for_each(|byte| *byte = 0),
        }
        // Zeros over zeros are no damage; nor, of what is damaged, is a second flip that mends it.
        match bytes == self.shadow.files[*step as usize] {
            true => self.damaged.remove(step),
            false => self.damaged.insert(*step),
        };
        // As a disk does it: the same file, other bytes.
        fs::remove_file(&path).and_then(|()| fs::write(&path, bytes)).map_err(|e| e.to_string())
    }

    fn export(&mut self) -> Result<(), String> {
        let Some(step) = self.steps_there().into_iter().rfind(|step| !self.damaged.contains(step)) else {
            return Ok(());
        };
        match export_of(&checkpoint_path(&self.path, step))? == self.shadow.export[step as usize] {
            true => Ok(()),
            false => Err(format!("the export of step {step} has other bytes")),
        }
    }

    /// Every checkpoint has the bytes of the undisturbed run, unless it was damaged; so has the state of the trainer.
    fn check(&self) -> Result<(), String> {
        for step in self.steps_there().into_iter().filter(|step| !self.damaged.contains(step)) {
            let bytes = fs::read(checkpoint_path(&self.path, step)).map_err(|e| e.to_string())?;
            if bytes != self.shadow.files[step as usize] {
                return Err(format!("the checkpoint of step {step} has other bytes"));
            }
        }
        let Some((trainer, _, _)) = &self.running else { return Ok(()) };
        let step = trainer.counters().step;
        let path = self.path.with_file_name("probe.tetrad");
        self.write(&path)?;
        match fs::read(&path).map_err(|e| e.to_string())? == self.shadow.files[step as usize] {
            true => Ok(()),
            false => Err(format!("the state after step {step} has other bytes")),
        }
    }
}
