//! One run, and everything that can go wrong with the disk at any of its operations.

use super::disk::{Disk, Image, install, read_all};
use super::machine::{Done, Fate, Simulated};
use super::process::{Ended, Kind, Process, STEPS, begin};
use super::shadow::{METRICS, Shadow, folder};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tetrad::checkpoint::newest_sound;
use tetrad::config::Config;
use tetrad::store::remove_stale;
use tetrad::train::Metrics;

/// A run that begins, is stopped after step 7, and goes on to step 9.
fn life(config: &Config, machine: &Arc<Simulated>) -> Result<(), Ended> {
    machine.run(|| {
        Process::start(config, machine)?.steps(7, true, machine)?;
        Process::start(config, machine)?.steps(9, false, machine)?;
        Ok(())
    })
}

/// Goes on to the end, and compares.
fn finish(config: &Config, shadow: &Shadow) -> Result<(), String> {
    let machine = Simulated::new();
    let said = |ended| format!("going on ended with {ended:?}");
    let mut process = machine.run(|| Process::start(config, &machine)).map_err(said)?;
    if !process.skipped.is_empty() {
        return Err(format!("a checkpoint was damaged: {:?}", process.skipped));
    }
    machine.run(|| process.steps(STEPS, false, &machine)).map_err(said)?;
    shadow.check(&config.run.dir, &|_| false)?;
    shadow.check_finished(&config.run.dir)?;
    match partial(&config.run.dir) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("left behind: {left:?}")),
    }
}

/// Files that were written to and never got their names.
pub fn partial(folder: &Path) -> Vec<String> {
    let names = read_all(folder).into_keys().map(|path| path.display().to_string());
    names.filter(|name| name.ends_with(".partial")).collect()
}

/// The images that a crash within a run may leave, each with the last checkpoint that the program was told is saved.
fn images(mut disk: Disk, log: &[Done]) -> BTreeMap<Image, Option<u64>> {
    let (mut promised, mut found) = (None, BTreeMap::new());
    for done in log.iter().map(Some).chain([None]) {
        let mut now = BTreeSet::new();
        disk.all(&mut now);
        now.into_iter().for_each(|image| {
            let known = found.entry(image).or_insert(promised);
            *known = promised.max(*known);
        });
        match done {
            Some(Done::Saved(step)) => promised = Some(*step),
            Some(done) => disk.apply(done),
            None => {}
        }
    }
    found
}

/// Whether a run goes on from an image to the files of the undisturbed one. What it does follows from the files that are
/// there once it has found its checkpoint, dropped what killed processes left, and cut its metrics: where those were met
/// before, it is not done again.
fn goes_on(
    config: &Config,
    root: &Path,
    (image, promised): (&Image, Option<u64>),
    known: &mut BTreeSet<Image>,
    shadow: &Shadow,
) -> Result<(), String> {
    install(root, image);
    let dir = &config.run.dir;
    if dir.is_dir() {
        let newest = newest_sound(dir).map_err(|e| e.to_string())?;
        let step = newest.map(|newest| newest.checkpoint.meta.counters.step);
        if step < promised {
            return Err(format!("step {promised:?} was saved, and the newest checkpoint is {step:?}"));
        }
        remove_stale(dir).map_err(|e| e.to_string())?;
        Metrics::open(&dir.join(METRICS), step.unwrap_or(0), 0).map_err(|e| e.to_string())?;
    }
    match known.insert(read_all(root)) {
        true => finish(config, shadow),
        false => Ok(()),
    }
}

#[test]
fn whatever_a_crash_leaves_goes_on_to_the_files_of_the_undisturbed_run() {
    let shadow = Shadow::new(Kind::Plain);
    let (root, machine) = (folder(), Simulated::new());
    let config = begin(root.path(), Kind::Plain);
    let before = Disk::of(root.path());
    machine.record();
    life(&config, &machine).unwrap();
    let log = machine.recorded();
    let (images, mut known) = (images(before, &log), BTreeSet::new());
    for (number, (image, promised)) in images.iter().enumerate() {
        if let Err(wrong) = goes_on(&config, root.path(), (image, *promised), &mut known, &shadow) {
            let files: Vec<_> = image.iter().map(|(path, bytes)| (path, bytes.len())).collect();
            panic!("image {number} of {}: {wrong}\n{files:#?}", images.len());
        }
    }
    println!("{} operations, {} images, {} ways to go on", log.len(), images.len(), known.len());
    assert!(images.len() > 1000 && known.len() > 10, "{} images, {} ways", images.len(), known.len());
}

/// The images show what each sync is for.
#[test]
fn without_any_of_its_syncs_a_save_would_be_lost_or_torn() {
    let shadow = Shadow::new(Kind::Plain);
    let (root, machine) = (folder(), Simulated::new());
    let config = begin(root.path(), Kind::Plain);
    machine.run(|| Process::start(&config, &machine)?.steps(2, true, &machine)).unwrap();
    let mut process = machine.run(|| Process::start(&config, &machine)).unwrap();
    let disk = Disk::of(root.path());
    machine.record();
    machine.run(|| process.steps(3, false, &machine)).unwrap();
    drop(process);
    let mut log = machine.recorded();
    // It is saved once more where it stops.
    log.truncate(log.iter().position(|done| *done == Done::Saved(3)).unwrap() + 1);
    let wrong = |log: &[Done]| {
        let mut known = BTreeSet::new();
        let mut all = images(disk.clone(), log).into_iter();
        all.find_map(|(image, promised)| goes_on(&config, root.path(), (&image, promised), &mut known, &shadow).err())
    };
    assert_eq!(wrong(&log), None);
    let syncs: Vec<_> = (0..log.len()).filter(|&at| matches!(log[at], Done::Sync(_) | Done::SyncFolder(_))).collect();
    assert_eq!(syncs.len(), 3, "of the metrics, of the checkpoint, of the folder");
    for at in syncs {
        let mut less = log.clone();
        let left_out = less.remove(at);
        assert!(wrong(&less).is_some(), "nothing depends on {left_out:?}");
    }
}

/// Does the life once for each operation and each of `fates`, which say what happens at it.
fn at_every_operation(
    shadow: &Shadow,
    fates: &[&dyn Fn(usize) -> Fate],
    mut check: impl FnMut(&Config, Fate, &Done, Result<(), Ended>) -> Result<(), String>,
) -> usize {
    let mut met = 0;
    for fate in fates {
        for operation in 0.. {
            let fate = fate(operation);
            let (root, machine) = (folder(), Simulated::new());
            let config = begin(root.path(), Kind::Plain);
            machine.arm(operation, fate);
            let outcome = life(&config, &machine);
            let Some((_, done)) = machine.restart() else {
                outcome.unwrap();
                break;
            };
            met += 1;
            let checked = check(&config, fate, &done, outcome).and_then(|()| finish(&config, shadow));
            let name = match done {
                Done::Write(path, at, bytes) => {
                    format!("a write of {} bytes at {at} of {}", bytes.len(), path.display())
                }
                done => format!("{done:?}"),
            };
            checked.unwrap_or_else(|wrong| panic!("{fate:?} at operation {operation}, {name}: {wrong}"));
        }
    }
    met
}

#[test]
fn a_process_that_is_killed_at_any_operation_goes_on_to_the_same_files() {
    let before = |_| Fate::Killed { percent: 0 };
    let amid = |operation| Fate::Killed { percent: 1 + operation as u64 % 100 };
    let met = at_every_operation(&Shadow::new(Kind::Plain), &[&before, &amid], |_, _, _, outcome| match outcome {
        Err(Ended::Said(_)) => Ok(()),
        other => Err(format!("a killed process ended with {other:?}")),
    });
    assert!(met > 100, "{met} operations");
}

/// No space, no space of one's own, no right to write, a limit on the size of files, and a broken disk.
#[test]
fn what_the_disk_refuses_is_said_with_its_path_and_leaves_no_part_of_a_file() {
    use rustix::io::Errno;
    let errors = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::ACCESS, Errno::FBIG, Errno::IO];
    // Each operation meets three of them.
    let error = |number: usize| Fate::Refused(errors[number % errors.len()].raw_os_error());
    let (first, second, third) = (|at| error(at), |at| error(at + 1), |at| error(at + 3));
    let met = at_every_operation(&Shadow::new(Kind::Plain), &[&first, &second, &third], |config, _, done, outcome| {
        let root = config.run.dir.parent().unwrap();
        match outcome {
            Err(Ended::Said(said)) if said.contains(&*root.to_string_lossy()) => {}
            Err(Ended::Said(said)) => return Err(format!("names no path: {said}")),
            other => return Err(format!("ended with {other:?}")),
        }
        // A file that cannot be removed is the exception.
        if !matches!(done, Done::Remove(_)) && !partial(root).is_empty() {
            return Err(format!("left behind: {:?}", partial(root)));
        }
        let newest = config.run.dir.is_dir().then(|| newest_sound(&config.run.dir)).transpose();
        match newest.map_err(|e| e.to_string())?.flatten() {
            Some(newest) if !newest.damaged.is_empty() => Err("a checkpoint is damaged".into()),
            _ => Ok(()),
        }
    });
    assert!(met > 200, "{met} operations");
}
