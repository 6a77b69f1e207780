//! The run that nothing happens to: what every other one is compared with.

use super::machine::Simulated;
use super::process::{CADENCES, Kind, Process, STEPS, begin};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use tetrad::checkpoint::{BEST, Checkpoint, checkpoint_path, list};
use tetrad::convert::{GgufTypes, export_gguf};
use tetrad::format::File;
use tetrad::train::StopReason;

/// The name of the metrics.
pub const METRICS: &str = "metrics.jsonl";

/// What an undisturbed run is at a step. A run that goes back is at some steps more than once.
struct Moment {
    checkpoint: Vec<u8>,
    /// The weights of the best validation, if there was one.
    best: Option<Vec<u8>>,
    metrics: Vec<u8>,
    export: Vec<u8>,
}

/// The undisturbed run.
pub struct Shadow {
    pub kind: Kind,
    /// For each cadence, which stands in the files, the moments of every step.
    moments: [Vec<Vec<Moment>>; 2],
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

/// The planes that differ between two files, by the names of tensor and plane.
type Planes = BTreeSet<(String, String)>;

/// The planes of two checkpoints whose bytes are not the same.
fn planes(a: &[u8], b: &[u8]) -> Planes {
    let (a, b) = (File::parse(a).unwrap(), File::parse(b).unwrap());
    let bytes = |file: &File<'_>| -> BTreeMap<(String, String), Vec<u8>> {
        let tensors = file.tensors().iter().enumerate();
        let planes = tensors.flat_map(|(at, tensor)| {
            tensor
                .planes
                .iter()
                .map(move |plane| (at, (tensor.spec.name.clone(), tensor.plane_name(plane.kind)), plane.kind))
        });
        planes.map(|(at, name, kind)| (name, file.plane(at, kind).unwrap().bytes.to_vec())).collect()
    };
    let (a, b) = (bytes(&a), bytes(&b));
    a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}

/// What `diff` says of two checkpoints: the planes, and whether anything differs.
fn diff(a: &[u8], b: &[u8]) -> (Planes, bool) {
    let diff = tetrad::format::diff(&File::parse(a).unwrap(), &File::parse(b).unwrap());
    let planes = diff.tensors.iter().flat_map(|tensor| {
        let named = |(plane, _): &(String, _)| (tensor.name.clone(), plane.clone());
        tensor.planes.iter().map(named).collect::<Vec<_>>()
    });
    (planes.collect(), diff.is_same())
}

/// Whether two files differ at most in what the watchdog has seen: which of the states before a spike a run went back to depends
/// on the checkpoints that it finds, and at steps before the spike it knows of it or not.
fn same_but_for_watch(a: &[u8], b: &[u8]) -> bool {
    let (Ok(a), Ok(b)) = (File::parse(a), File::parse(b)) else { return false };
    let mut diff = tetrad::format::diff(&a, &b);
    diff.metadata.retain(|member| member.path[0] != "watch");
    diff.is_same()
}

/// Where a run went back to depends on the checkpoints that it finds; that it did, and over which steps, does not.
fn without_places(metrics: &[u8]) -> (Vec<String>, Vec<String>) {
    let text = String::from_utf8_lossy(metrics);
    let (events, mut steps): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains("\"event\""));
    steps.retain(|line| !line.is_empty());
    let events = events.iter().map(|line| line.split_once(',').map_or("", |(_, rest)| rest).to_owned());
    (events.collect(), steps.iter().map(ToString::to_string).collect())
}

impl Shadow {
    pub fn new(kind: Kind) -> Self {
        let lived = |cadence| {
            let (root, machine) = (folder(), Simulated::new());
            let mut config = begin(root.path(), kind);
            config.train.checkpoint_every = cadence;
            let dir = &config.run.dir;
            let mut process = Process::start(&config, &machine).unwrap();
            let mut moments: Vec<Vec<Moment>> = (0..=STEPS).map(|_| Vec::new()).collect();
            loop {
                let step = process.trainer.counters().step;
                process.save(&machine).unwrap();
                let path = checkpoint_path(dir, step);
                moments[step as usize].push(Moment {
                    checkpoint: fs::read(&path).unwrap(),
                    best: fs::read(dir.join(BEST)).ok(),
                    metrics: fs::read(dir.join(METRICS)).unwrap(),
                    export: export_of(&path).unwrap(),
                });
                if step == STEPS {
                    return moments;
                }
                let reason = process.next(&machine).unwrap();
                assert!(matches!(reason, StopReason::Stopped | StopReason::Finished), "{reason:?}");
            }
        };
        let moments = CADENCES.map(lived);
        let twice = moments.iter().all(|moments| moments.iter().any(|moments| moments.len() > 1));
        assert_eq!(twice, kind == Kind::Watched, "whether it goes back");
        Shadow { kind, moments, seen: Mutex::default() }
    }

    /// Has another checkpoint of a step in mind than the right one.
    pub fn spoil(&mut self, step: u64) {
        self.moments.iter_mut().flat_map(|moments| &mut moments[step as usize]).for_each(|moment| {
            moment.checkpoint[0] ^= 1;
        });
    }

    pub fn saw(&self, what: &'static str) {
        *self.seen.lock().unwrap().entry(what).or_default() += 1;
    }

    fn at(&self, step: u64) -> impl Iterator<Item = &Moment> {
        self.moments.iter().flat_map(move |moments| &moments[step as usize])
    }

    /// Whether these are the bytes of the checkpoint of a step.
    pub fn is_checkpoint(&self, step: u64, bytes: &[u8]) -> bool {
        self.at(step).any(|moment| self.is_same(&moment.checkpoint, bytes))
    }

    fn is_same(&self, wanted: &[u8], found: &[u8]) -> bool {
        wanted == found || self.kind == Kind::Watched && same_but_for_watch(wanted, found)
    }

    /// Whether these are the bytes of the export of a checkpoint.
    pub fn is_export(&self, step: u64, checkpoint: &[u8], bytes: &[u8]) -> bool {
        self.at(step).any(|moment| self.is_same(&moment.checkpoint, checkpoint) && moment.export == bytes)
    }

    /// What is wrong with the comparison of two checkpoints.
    pub fn check_diff(&self, a: &[u8], b: &[u8]) -> Result<(), String> {
        let (wanted, (found, same)) = (planes(a, b), diff(a, b));
        match found == wanted && same == (a == b) {
            true => Ok(()),
            false => Err(format!("the difference is (same: {same})\n{found:?}\ninstead of\n{wanted:?}")),
        }
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
        let all = || (0..=STEPS).flat_map(|step| self.at(step));
        match fs::read(dir.join(BEST)) {
            Ok(bytes) if !all().filter_map(|moment| moment.best.as_ref()).any(|best| self.is_same(best, &bytes)) => {
                Err("the best weights are those of no step".into())
            }
            _ => Ok(()),
        }
    }

    /// What is wrong with the metrics of a process that is at a step.
    pub fn check_metrics(&self, dir: &Path, step: u64) -> Result<(), String> {
        let found = fs::read(dir.join(METRICS)).unwrap_or_default();
        let right = |moment: &Moment| match self.kind {
            Kind::Plain => moment.metrics == found,
            Kind::Watched => without_places(&moment.metrics) == without_places(&found),
        };
        match self.at(step).any(right) {
            true => Ok(()),
            false => Err(format!(
                "the metrics after step {step} are\n{}instead of\n{}",
                String::from_utf8_lossy(&found),
                self.at(step).map(|moment| String::from_utf8_lossy(&moment.metrics)).collect::<Vec<_>>().join("or\n")
            )),
        }
    }

    /// What is wrong with the files of a run that is finished.
    pub fn check_finished(&self, dir: &Path) -> Result<(), String> {
        self.check_metrics(dir, STEPS)?;
        let best = fs::read(dir.join(BEST)).ok();
        let right = |moment: &Moment| match (&moment.best, &best) {
            (Some(wanted), Some(found)) => self.is_same(wanted, found),
            (wanted, found) => wanted == found,
        };
        match self.at(STEPS).any(right) {
            true => Ok(()),
            false => Err("the best weights of the finished run are others".into()),
        }
    }
}
