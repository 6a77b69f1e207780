//! One life: a folder, perhaps a process, and what the undisturbed run says about both.

use super::disk::{Disk, install};
use super::machine::{Done, Fate, Simulated};
use super::plan::{Change, Damage, Draw, Verb};
use super::process::{CADENCES, Ended, Process, Resume, begin};
use super::shadow::{METRICS, Shadow, export_of, folder};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tetrad::checkpoint::{checkpoint_path, clear, list, prune, set_aside};
use tetrad::config::{Config, TrainConfig};
use tetrad::model::{ActivationCheckpointing, TableStorage};
use tetrad::train::StopReason;

/// Threads to compute with: one, two and three.
static POOLS: LazyLock<[rayon::ThreadPool; 3]> =
    LazyLock::new(|| [1, 2, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()));

/// What a life is at the moment.
pub struct Life<'a> {
    shadow: &'a Shadow,
    root: tempfile::TempDir,
    machine: Arc<Simulated>,
    config: Config,
    plain: Config,
    /// The setting that a resumption must refuse.
    foreign: Option<&'static str>,
    process: Option<Process>,
    threads: usize,
    /// What damage made of checkpoints.
    wounds: BTreeSet<Vec<u8>>,
    moves: u32,
    /// What was on the disk when a loss of power was decided, and what the loss chooses by.
    power: Option<(Disk, u32)>,
}

impl<'a> Life<'a> {
    pub fn begin(shadow: &'a Shadow) -> Self {
        let root = folder();
        let config = begin(root.path());
        let (plain, machine) = (config.clone(), Simulated::new());
        let (process, wounds, power) = (None, BTreeSet::new(), None);
        Life { shadow, root, machine, config, plain, foreign: None, process, threads: 1, wounds, moves: 0, power }
    }

    fn dir(&self) -> &Path {
        &self.config.run.dir
    }

    /// Takes part in one event, and checks all that can be seen afterwards.
    pub fn take(&mut self, verb: Verb) -> Result<(), String> {
        let outcome = match verb {
            Verb::Start { threads } => self.start(Resume::Newest, threads),
            Verb::StartNamed { threads } => match self.steps_there().last() {
                Some(&step) => self.start(Resume::Step(step), threads),
                None => Ok(()),
            },
            Verb::Train { steps } => self.train(steps),
            Verb::Stop => self.stop(),
            Verb::Kill => {
                self.process = None;
                Ok(())
            }
            Verb::Meet { after, fate } => {
                if !self.machine.is_armed() {
                    self.machine.arm(after, fate);
                }
                Ok(())
            }
            Verb::PowerLoss { after, choices } => {
                if !self.machine.is_armed() {
                    self.power = Some((Disk::of(self.root.path()), choices));
                    self.machine.record();
                    self.machine.arm(after, Fate::Killed { percent: 100 });
                }
                Ok(())
            }
            // What follows is done to the files of a machine that has its power.
            _ if self.power.is_some() => Ok(()),
            Verb::Damage { newest, how, at } => self.damage(newest, how, at),
            Verb::TornMetrics => self.tear_metrics(),
            Verb::DamageCache { at } => self.damage_cache(at),
            Verb::DropCache => {
                let _ = fs::remove_dir_all(&self.config.data.cache);
                Ok(())
            }
            Verb::Prune { keep } => {
                let train = TrainConfig { keep, ..self.config.train.clone() };
                let pruned = self.dir().is_dir().then(|| prune(self.dir(), &train));
                pruned.unwrap_or(Ok(())).map_err(Ended::from)
            }
            Verb::Export => self.export(),
            Verb::Move => {
                self.process = None;
                self.moves += 1;
                let to = self.root.path().join(format!("run-{}", self.moves));
                if self.dir().is_dir() {
                    fs::rename(self.dir(), &to).unwrap();
                }
                self.config.run.dir = to;
                self.shadow.saw("moved");
                Ok(())
            }
            Verb::Change(change) => {
                self.change(change);
                Ok(())
            }
        };
        let outcome = self.meet(outcome)?;
        outcome.map_err(|ended| match ended {
            Ended::Wrong(what) => what,
            ended => format!("ended with {ended:?}"),
        })?;
        self.check()
    }

    /// What has happened to the process, if anything was to.
    fn meet(&mut self, outcome: Result<(), Ended>) -> Result<Result<(), Ended>, String> {
        let Some((fate, done)) = self.machine.restart() else { return Ok(outcome) };
        self.process = None;
        match (fate, outcome) {
            (Fate::Refused(_), Err(Ended::Said(said))) if said.contains(&*self.root.path().to_string_lossy()) => {
                self.shadow.saw("refused by the disk");
                return Ok(Ok(()));
            }
            // What a killed process left of a file that can be made again may stay.
            (Fate::Refused(_), Ok(())) if matches!(&done, Done::Remove(path) if path.extension().is_some_and(|end| end == "partial")) =>
                {}
            (Fate::Refused(_), outcome) => return Err(format!("{done:?} was refused, and led to {outcome:?}")),
            (Fate::Killed { .. }, Err(Ended::Said(_))) => {}
            (Fate::Killed { .. }, outcome) => return Err(format!("killed at {done:?}, and yet {outcome:?}")),
        }
        if let Fate::Killed { .. } = fate {
            self.shadow.saw("killed at an operation");
        }
        if let Some((mut disk, choices)) = self.power.take() {
            let (mut draw, mut promised) = (Draw::new(choices.into()), None);
            for done in self.machine.recorded() {
                disk.apply(&done);
                if let Done::Saved(step) = done {
                    promised = Some(step);
                }
            }
            install(self.root.path(), &disk.any(&mut |count| draw.next(count as u64) as usize));
            self.shadow.saw("lost power");
            if let Some(step) = promised.filter(|step| !self.steps_there().contains(step)) {
                return Err(format!("step {step} was saved, and is lost"));
            }
        }
        Ok(Ok(()))
    }

    fn change(&mut self, change: Change) {
        let config = &mut self.config;
        match change {
            Change::MicroBatch => config.train.micro_batch = 1 - config.train.micro_batch,
            Change::Recompute => config.run.activation_checkpointing = ActivationCheckpointing::Block,
            Change::Cadence => {
                config.train.checkpoint_every = CADENCES[0] + CADENCES[1] - config.train.checkpoint_every;
            }
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
        // The process that runs has its own; the next one meets the change.
        let plain = &self.plain;
        self.foreign = [
            (config.run.seed != plain.run.seed, "run.seed"),
            (config.storage != plain.storage, "storage.embedding"),
            (config.train.sequence != plain.train.sequence, "train.sequence"),
        ]
        .into_iter()
        .find_map(|(differs, key)| differs.then_some(key));
    }

    fn start(&mut self, from: Resume, threads: usize) -> Result<(), Ended> {
        self.process = None;
        self.threads = threads;
        if self.foreign.is_some() && self.steps_there().is_empty() {
            // A new run of other settings would be another run.
            return Ok(());
        }
        let best = self.best();
        let named = matches!(from, Resume::Step(_));
        let started = self.inside(|life| Process::start(&life.config, &from, &life.machine));
        match started {
            Ok(process) => {
                if process.went_on != best {
                    let step = process.went_on;
                    return Err(wrong(format!("went on from step {step:?}, and the newest sound one is {best:?}")));
                }
                if let Some(key) = self.foreign {
                    return Err(wrong(format!("{key} differs, and was not refused")));
                }
                let what = if process.skipped.is_empty() { "resumed" } else { "damaged newest" };
                self.shadow.saw(if process.went_on.is_some() { what } else { "begun" });
                self.process = Some(process);
                Ok(())
            }
            Err(Ended::AllDamaged) if best.is_none() => {
                self.shadow.saw("all damaged");
                clear(self.dir()).map_err(|e| wrong(e.to_string()))
            }
            Err(Ended::Differs(said)) if self.foreign.is_some_and(|key| said.contains(key)) => {
                self.shadow.saw("refused");
                Ok(())
            }
            Err(Ended::Said(_)) if named && self.steps_there().last().copied() != best && !self.machine.has_met() => {
                self.shadow.saw("named a damaged one");
                // It is the one that is named, and nothing else is taken in its place.
                for step in self.steps_there().into_iter().filter(|&step| self.is_damaged(step)) {
                    set_aside(&checkpoint_path(self.dir(), step)).map_err(|e| wrong(e.to_string()))?;
                }
                Ok(())
            }
            Err(ended) => Err(ended),
        }
    }

    /// Does something with the life's threads, on its machine.
    fn inside<R: Send>(&mut self, work: impl FnOnce(&mut Self) -> R + Send) -> R
    where
        Self: Send,
    {
        let machine = self.machine.clone();
        POOLS[self.threads - 1].install(|| machine.run(|| work(self)))
    }

    fn train(&mut self, count: u64) -> Result<(), Ended> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let until = process.trainer.counters().step + count;
        let reason = self.inside(|life| process.steps(until, false, &life.machine).map(|reason| (reason, process)));
        let (reason, process) = reason?;
        match reason {
            StopReason::Finished => {
                self.shadow.saw("finished");
                self.shadow.check_finished(self.dir()).map_err(wrong)?;
            }
            StopReason::Stopped => {}
            other => return Err(wrong(format!("ended with {other:?}"))),
        }
        self.shadow.check_metrics(self.dir(), process.trainer.counters().step).map_err(wrong)?;
        self.process = Some(process);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Ended> {
        let Some(process) = self.process.take() else { return Ok(()) };
        self.inside(move |life| process.save(&life.machine))
    }

    fn steps_there(&self) -> Vec<u64> {
        let found = self.dir().is_dir().then(|| list(self.dir()).unwrap());
        found.unwrap_or_default().into_iter().map(|(step, _)| step).collect()
    }

    fn is_damaged(&self, step: u64) -> bool {
        fs::read(checkpoint_path(self.dir(), step)).is_ok_and(|bytes| self.wounds.contains(&bytes))
    }

    /// The newest checkpoint that was not damaged.
    fn best(&self) -> Option<u64> {
        self.steps_there().into_iter().rfind(|&step| !self.is_damaged(step))
    }

    fn damage(&mut self, newest: bool, how: Damage, at: u64) -> Result<(), Ended> {
        let steps = self.steps_there();
        let Some(step) = (if newest { steps.last() } else { steps.first() }) else { return Ok(()) };
        let path = checkpoint_path(self.dir(), *step);
        let mut bytes = fs::read(&path).unwrap();
        let at = at as usize % bytes.len().max(1);
        match how {
            Damage::Delete => {
                fs::remove_file(&path).unwrap();
                return Ok(());
            }
            Damage::Flip => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (at % 8)),
            Damage::Cut => bytes.truncate(at),
            Damage::Empty => bytes.clear(),
            Damage::Zeros => bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
        }
        // Zeros over zeros are no damage; nor, of what is damaged, is a second flip that mends it.
        if !self.shadow.is_checkpoint(*step, &bytes) {
            self.wounds.insert(bytes.clone());
        }
        // Not in place: a map of the old file may live.
        fs::remove_file(&path).and_then(|()| fs::write(&path, bytes)).unwrap();
        Ok(())
    }

    fn tear_metrics(&mut self) -> Result<(), Ended> {
        // A process that runs would write behind it.
        self.process = None;
        if let Ok(mut bytes) = fs::read(self.dir().join(METRICS)) {
            bytes.extend_from_slice(b"{\"step\":3,\"lo");
            fs::write(self.dir().join(METRICS), bytes).unwrap();
        }
        Ok(())
    }

    fn damage_cache(&mut self, at: u64) -> Result<(), Ended> {
        for entry in fs::read_dir(&self.config.data.cache).into_iter().flatten() {
            let path = entry.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            let at = at as usize % bytes.len().max(1);
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 4);
            fs::remove_file(&path).and_then(|()| fs::write(&path, bytes)).unwrap();
        }
        Ok(())
    }

    fn export(&mut self) -> Result<(), Ended> {
        let Some(step) = self.best() else {
            return Ok(());
        };
        let export = export_of(&checkpoint_path(self.dir(), step)).map_err(Ended::Said)?;
        match self.shadow.is_export(step, &export) {
            true => Ok(()),
            false => Err(wrong(format!("the export of step {step} has other bytes"))),
        }
    }

    /// Every checkpoint has the bytes of the undisturbed run, unless it was damaged; so has the state of the process.
    fn check(&mut self) -> Result<(), String> {
        self.shadow.check(self.dir(), &|step| self.is_damaged(step))?;
        let Some(process) = &self.process else { return Ok(()) };
        let step = process.trainer.counters().step;
        let probe = self.root.path().join("probe.tetrad");
        process.save_to(&probe).map_err(|ended| format!("{ended:?}"))?;
        let bytes = fs::read(&probe).map_err(|e| e.to_string())?;
        fs::remove_file(&probe).map_err(|e| e.to_string())?;
        match self.shadow.is_checkpoint(step, &bytes) {
            true => Ok(()),
            false => Err(format!("the state after step {step} has other bytes")),
        }
    }
}

/// What the test finds wrong.
fn wrong(what: String) -> Ended {
    Ended::Wrong(what)
}
