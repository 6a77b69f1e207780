//! The run that nothing happens to: what every other one is compared with.

use super::machine::Simulated;
use super::process::{CADENCES, Process, Resume, STEPS, begin};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use tetrad::checkpoint::{BEST, Checkpoint, checkpoint_path, list};
use tetrad::convert::{GgufTypes, export_gguf};

/// The name of the metrics.
pub const METRICS: &str = "metrics.jsonl";

/// The undisturbed run.
pub struct Shadow {
    /// Its checkpoint after every step, for each cadence, which stands in the file.
    files: [Vec<Vec<u8>>; 2],
    /// The weights of its best validation after every step, if there was one.
    best: [Vec<Option<Vec<u8>>>; 2],
    /// Its metrics after every step.
    metrics: Vec<Vec<u8>>,
    export: Vec<Vec<u8>>,
    /// How often what was met.
    pub seen: Mutex<BTreeMap<&'static str, usize>>,
}

/// A folder in memory where there is one: saving waits for the disk.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A checkpoint as GGUF.
pub fn export_of(path: &Path) -> Result<Vec<u8>, String> {
    let checkpoint = Checkpoint::open(path).map_err(|e| e.to_string())?;
    let out = path.with_extension("gguf");
    export_gguf(&checkpoint, GgufTypes::default(), &out, &mut |_, _| {}).map_err(|e| e.to_string())?;
    let bytes = fs::read(&out).map_err(|e| e.to_string())?;
    fs::remove_file(&out).map_err(|e| e.to_string())?;
    Ok(bytes)
}

impl Shadow {
    pub fn new() -> Self {
        let (mut files, mut best, mut metrics, mut export) =
            ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()], Vec::new(), Vec::new());
        for (number, cadence) in CADENCES.into_iter().enumerate() {
            let (root, machine) = (folder(), Simulated::new());
            let mut config = begin(root.path());
            config.train.checkpoint_every = cadence;
            let dir = &config.run.dir;
            let mut process = Process::start(&config, &Resume::Newest, &machine).unwrap();
            for step in 0..=STEPS {
                process.steps(step, true, &machine).unwrap();
                let path = checkpoint_path(dir, step);
                files[number].push(fs::read(&path).unwrap());
                best[number].push(fs::read(dir.join(BEST)).ok());
                if number == 0 {
                    metrics.push(fs::read(dir.join(METRICS)).unwrap());
                    export.push(export_of(&path).unwrap());
                }
            }
        }
        Shadow { files, best, metrics, export, seen: Mutex::default() }
    }

    /// Has another checkpoint of a step in mind than the right one.
    pub fn spoil(&mut self, step: u64) {
        self.files.iter_mut().for_each(|files| files[step as usize][0] ^= 1);
    }

    pub fn saw(&self, what: &'static str) {
        *self.seen.lock().unwrap().entry(what).or_default() += 1;
    }

    /// Whether these are the bytes of the checkpoint of a step.
    pub fn is_checkpoint(&self, step: u64, bytes: &[u8]) -> bool {
        self.files.iter().any(|files| files[step as usize] == bytes)
    }

    pub fn is_export(&self, step: u64, bytes: &[u8]) -> bool {
        self.export[step as usize] == bytes
    }

    /// What is wrong with the files of a run; checkpoints of the steps `damaged` may be anything.
    pub fn check(&self, dir: &Path, damaged: &dyn Fn(u64) -> bool) -> Result<(), String> {
        if !dir.is_dir() {
            return Ok(());
        }
        for (step, path) in list(dir).map_err(|e| e.to_string())? {
            if !damaged(step) && !self.is_checkpoint(step, &fs::read(&path).map_err(|e| e.to_string())?) {
                return Err(format!("the checkpoint of step {step} has other bytes"));
            }
        }
        match fs::read(dir.join(BEST)) {
            Ok(bytes) if !self.best.iter().flatten().flatten().any(|best| *best == bytes) => {
                Err("the best weights are those of no step".into())
            }
            _ => Ok(()),
        }
    }

    /// What is wrong with the metrics of a process that is at a step.
    pub fn check_metrics(&self, dir: &Path, step: u64) -> Result<(), String> {
        let (found, wanted) = (fs::read(dir.join(METRICS)).unwrap_or_default(), &self.metrics[step as usize]);
        match found == *wanted {
            true => Ok(()),
            false => Err(format!(
                "the metrics after step {step} are\n{}instead of\n{}",
                String::from_utf8_lossy(&found),
                String::from_utf8_lossy(wanted)
            )),
        }
    }

    /// What is wrong with the files of a run that is finished.
    pub fn check_finished(&self, dir: &Path) -> Result<(), String> {
        self.check_metrics(dir, STEPS)?;
        let best = fs::read(dir.join(BEST)).ok();
        match self.best.iter().any(|all| all[STEPS as usize] == best) {
            true => Ok(()),
            false => Err("the best weights of the finished run are others".into()),
        }
    }
}
