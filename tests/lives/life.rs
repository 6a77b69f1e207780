//! One life: a folder, perhaps a process, and what the undisturbed run says about both.

use super::disk::{Disk, install};
use super::machine::{Done, Fate, Simulated};
use super::plan::{Change, Damage, Draw, Verb};
use super::process::{CADENCES, Ended, Name, Process, begin};
use super::shadow::{METRICS, Shadow, export_of, folder};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tetrad::checkpoint::{checkpoint_path, clear, list, prune, set_aside};
use tetrad::config::{Config, RECORD, TrainConfig};
use tetrad::model::{ActivationCheckpointing, Offload, TableStorage};
use tetrad::train::StopReason;

thread_local! {
    /// Threads to compute with: one, two and three. No two lives share them: a thread that waits for others takes whatever
    /// its pool is given, and would live another life on the machine of the first.
    static POOLS: [rayon::ThreadPool; 3] =
        [1, 2, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
}

/// What a life is at the moment.
pub struct Life<'a> {
    shadow: &'a Shadow,
    root: tempfile::TempDir,
    machine: Arc<Simulated>,
    config: Config,
    plain: Config,
    /// Settings that are others since a process began, as they are told it.
    sets: Vec<String>,
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
        let config = begin(root.path(), shadow.kind);
        let (plain, machine) = (config.clone(), Simulated::new());
        let (process, wounds, power, sets) = (None, BTreeSet::new(), None, Vec::new());
        Life { shadow, root, machine, config, plain, sets, foreign: None, process, threads: 1, wounds, moves: 0, power }
    }

    fn dir(&self) -> &Path {
        &self.config.run.dir
    }

    /// Takes part in one event, and checks all that can be seen afterwards.
    pub fn take(&mut self, verb: Verb) -> Result<(), String> {
        let outcome = match verb {
            Verb::Start { threads } => self.start(Name::Same, threads),
            Verb::StartFolder { record, threads } => match self.dir().join(RECORD).is_file() {
                true => self.start(if record { Name::Record } else { Name::Folder }, threads),
                false => Ok(()),
            },
            Verb::StartNamed { back, threads } => match self.steps_there().iter().nth_back(back) {
                Some(&step) => self.start(Name::Step(step), threads),
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
            Verb::Diff => self.diff(),
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
        self.sets.push(match change {
            Change::MicroBatch => {
                config.train.micro_batch = 1 - config.train.micro_batch;
                format!("train.micro_batch={}", config.train.micro_batch)
            }
            Change::Recompute => {
                config.run.activation_checkpointing = ActivationCheckpointing::Block;
                "run.activation_checkpointing=block".into()
            }
            Change::Cadence => {
                config.train.checkpoint_every = CADENCES[0] + CADENCES[1] - config.train.checkpoint_every;
                format!("train.checkpoint_every={}", config.train.checkpoint_every)
            }
            Change::Offload => {
                let (home, name) = match config.offload.weights {
                    Offload::File => (Offload::Device, "device"),
                    _ => (Offload::File, "file"),
                };
                config.offload.weights = home;
                format!("offload.weights={name}")
            }
            Change::Seed => {
                config.run.seed = 3 - config.run.seed;
                format!("run.seed={}", config.run.seed)
            }
            Change::Sequence => {
                config.train.sequence = 20 - config.train.sequence;
                format!("train.sequence={}", config.train.sequence)
            }
            Change::Storage => {
                let (other, name) = match config.storage.embedding {
                    TableStorage::Int8 => (TableStorage::Bf16, "bf16"),
                    _ => (TableStorage::Int8, "int8"),
                };
                config.storage.embedding = other;
                format!("storage.embedding={name}")
            }
        });
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

    fn start(&mut self, name: Name, threads: usize) -> Result<(), Ended> {
        self.process = None;
        self.threads = threads;
        if self.foreign.is_some() && self.steps_there().is_empty() {
            // A new run of other settings would be another run.
            return Ok(());
        }
        // What it may go on from: what was named, and nothing in its place.
        let (best, right) = (
            self.best(),
            match name {
                Name::Step(step) => Some(step).filter(|step| !self.is_damaged(*step)),
                _ => self.best(),
            },
        );
        let named = matches!(name, Name::Step(_));
        let started = self.inside(|life| Process::start_named(&life.config, name, &life.sets, &life.machine));
        match started {
            Ok(process) => {
                if process.went_on != right || right != best {
                    let step = process.went_on;
                    return Err(wrong(format!("went on from step {step:?}, not from {right:?}; {best:?} is sound")));
                }
                self.sets.clear();
                match name {
                    Name::Same => {}
                    Name::Folder => self.shadow.saw("named by its folder"),
                    Name::Record => self.shadow.saw("named by its record"),
                    Name::Step(_) if process.skipped.is_empty() => self.shadow.saw("named by a checkpoint"),
                    Name::Step(_) => self.shadow.saw("named an earlier one"),
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
            Err(Ended::NotLast) if named && right < best => {
                self.shadow.saw("not the last");
                Ok(())
            }
            Err(Ended::Said(_)) if named && right.is_none() && !self.machine.has_met() => {
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
        POOLS.with(|pools| pools[self.threads - 1].install(|| machine.run(|| work(self))))
    }

    fn train(&mut self, count: u64) -> Result<(), Ended> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let until = process.trainer.counters().step + count;
        let before = process.trainer.watch().left_out();
        let reason = self.inside(|life| process.steps(until, false, &life.machine).map(|reason| (reason, process)));
        let (reason, process) = reason?;
        match reason {
            StopReason::Finished => {
                self.shadow.saw("finished");
                self.shadow.check_finished(self.dir()).map_err(wrong)?;
            }
            StopReason::Stopped => {}
            StopReason::Spike(_) if !self.can_go_back(&process) => {
                self.shadow.saw("nothing to go back to");
                return Ok(());
            }
            other => return Err(wrong(format!("ended with {other:?}"))),
        }
        if process.trainer.watch().left_out() > before {
            self.shadow.saw("went back");
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

    /// Whether a sound checkpoint is there that a run goes back to.
    fn can_go_back(&self, process: &Process) -> bool {
        let (at, every) = (process.trainer.counters().step, process.trainer.config().train.checkpoint_every);
        self.steps_there().into_iter().any(|step| step < at && step.is_multiple_of(every) && !self.is_damaged(step))
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

    fn diff(&mut self) -> Result<(), Ended> {
        let mut sound = self.steps_there();
        sound.retain(|&step| !self.is_damaged(step));
        let (Some(&first), Some(&last)) = (sound.first(), sound.last()) else { return Ok(()) };
        let read = |step| fs::read(checkpoint_path(self.dir(), step)).unwrap();
        self.shadow.check_diff(&read(first), &read(last)).map_err(wrong)?;
        self.shadow.check_diff(&read(last), &read(last)).map_err(wrong)?;
        if first != last {
            self.shadow.saw("compared");
        }
        Ok(())
    }

    fn export(&mut self) -> Result<(), Ended> {
        let Some(step) = self.best() else {
            return Ok(());
        };
        let path = checkpoint_path(self.dir(), step);
        let export = export_of(&path).map_err(Ended::Said)?;
        match self.shadow.is_export(step, &fs::read(&path).unwrap(), &export) {
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
