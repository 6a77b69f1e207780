//! One file of a state that lies on several ranks: by all of them where they see it, else through rank 0.

use super::{Life, config, on_each};
use crate::harness::small;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tetrad::checkpoint::{Checkpoint, Extent, Meta, contribute, save_divided};
use tetrad::config::Config;
use tetrad::error::{CheckpointError, RanksError};
use tetrad::ranks::Ranks;
use tetrad::store::{Machine, Operation, on_machine};
use tetrad::train::Trainer;

/// Matrices whose planes have whole blocks of a file, and such as have none.
fn wide() -> Config {
    let mut config = config();
    (config.model.hidden, config.model.intermediate, config.model.heads, config.model.kv_heads) = (512, 600, 8, 2);
    config.model.layers = 1;
    config
}

/// What a rank asks of its disk.
#[derive(Default)]
struct Disk {
    /// First byte and length of all that was written.
    written: Mutex<Vec<(u64, usize)>>,
    /// Bytes that fit onto it.
    room: Option<usize>,
}

impl Machine for Disk {
    fn before(&self, operation: &Operation<'_>) -> io::Result<()> {
        if let Operation::Write { at, bytes, .. } = operation {
            let mut written = self.written.lock().unwrap();
            let all: usize = written.iter().map(|(_, bytes)| bytes).sum();
            if self.room.is_some_and(|room| all + bytes.len() > room) {
                // ENOSPC
                return Err(io::Error::from_raw_os_error(28));
            }
            written.push((*at, bytes.len()));
        }
        Ok(())
    }

    fn time(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn ticks(&self) -> Duration {
        Duration::ZERO
    }
}

fn save(trainer: &Trainer, path: &Path) -> Result<(), CheckpointError> {
    let meta = Meta::new(trainer.config(), trainer.counters(), false, "text");
    save_divided(trainer, &meta, &[], Extent::Full, path)
}

/// Saves what ranks hold before their first step at `path`; each on a disk of its own, and with a folder of its own for its run.
/// What rank 0 gets.
fn saved(config: &Config, path: &Path, runs: &[&Path], disks: &[Arc<Disk>]) -> Result<(), CheckpointError> {
    let saved = on_each(disks.len(), |ranks: Arc<dyn Ranks>| {
        let (rank, mut config) = (ranks.rank(), config.clone());
        config.run.dir = runs[rank].into();
        let trainer = Life::new(&config).trainer(ranks.clone(), 1);
        on_machine(disks[rank].clone(), || match rank {
            0 => Some(save(&trainer, path)),
            _ => {
                // That rank 0 gave up is for it to say.
                let _ = contribute(&trainer);
                None
            }
        })
    });
    saved.into_iter().flatten().next().unwrap()
}

/// The file of one process.
fn expected(config: &Config) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("alone.tetrad");
    small::write(&Life::new(config).trainer(Arc::new(tetrad::ranks::Alone), 1), &path);
    std::fs::read(path).unwrap()
}

#[test]
fn all_ranks_write_one_file_and_no_two_into_one_block_of_it() {
    // The record of the configuration in the file names the folder: all runs have the same.
    let folder = tempfile::tempdir().unwrap();
    let (path, mut config) = (folder.path().join("a.tetrad"), wide());
    config.run.dir = folder.path().into();
    for size in [2, 3] {
        config.run.ranks = 1;
        let alone = expected(&config);
        let disks: Vec<Arc<Disk>> = (0..size).map(|_| Arc::default()).collect();
        saved(&config, &path, &vec![folder.path(); size], &disks).unwrap();
        assert!(std::fs::read(&path).unwrap() == alone, "{size} ranks");
        Checkpoint::open_sound(&path).unwrap();
        let mut writers = HashMap::new();
        for (rank, disk) in disks.iter().enumerate() {
            for &(at, bytes) in disk.written.lock().unwrap().iter().filter(|(_, bytes)| *bytes > 0) {
                for block in at >> 16..=(at + bytes as u64 - 1) >> 16 {
                    let first = *writers.entry(block).or_insert(rank);
                    assert_eq!(first, rank, "block {block} of {size} ranks");
                }
            }
        }
        let of = |rank| writers.values().filter(|writer| **writer == rank).count();
        assert!((1..size).all(|rank| of(rank) > 4), "{size} ranks: {writers:?}");
    }
}

#[test]
fn what_a_rank_does_not_see_goes_through_rank_0() {
    let [folder, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (path, mut config) = (folder.path().join("a.tetrad"), wide());
    config.run.dir = folder.path().into();
    let alone = expected(&config);
    let disks: Vec<Arc<Disk>> = (0..3).map(|_| Arc::default()).collect();
    saved(&config, &path, &[folder.path(), folder.path(), elsewhere.path()], &disks).unwrap();
    assert!(std::fs::read(&path).unwrap() == alone);
    assert!(disks[1..].iter().all(|disk| disk.written.lock().unwrap().is_empty()), "they write nothing");
    // Another file of the same name is not touched.
    std::fs::write(elsewhere.path().join(".a.tetrad.partial"), "sixteen bytes that are not the mark").unwrap();
    saved(&config, &path, &[folder.path(), folder.path(), elsewhere.path()], &disks).unwrap();
    let there = std::fs::read(elsewhere.path().join(".a.tetrad.partial")).unwrap();
    assert!(there.starts_with(b"sixteen") && std::fs::read(&path).unwrap() == alone);
}

#[test]
fn a_full_disk_of_one_rank_leaves_the_former_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, config) = (folder.path().join("a.tetrad"), wide());
    std::fs::write(&path, "what was there").unwrap();
    let disks = [Arc::default(), Arc::new(Disk { room: Some(100_000), ..Disk::default() })];
    let error = saved(&config, &path, &[folder.path(); 2], &disks).unwrap_err();
    assert_eq!(error.to_string(), "rank 1 cannot write its part of the file: No space left on device (os error 28)");
    assert!(matches!(&error, CheckpointError::Ranks(error) if !error.is_passing()), "{error:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"what was there");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn nothing_is_saved_without_a_rank_that_holds_a_part() {
    for config in [config(), wide()] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tetrad");
        std::fs::write(&path, "what was there").unwrap();
        let outcomes = on_each(2, |ranks| {
            let trainer = Life::new(&config).trainer(ranks, 1);
            // The other one is gone.
            (trainer.ranks().rank() == 0).then(|| save(&trainer, &path).unwrap_err())
        });
        let lost = |error: &CheckpointError| matches!(error, CheckpointError::Ranks(RanksError::Lost { rank: 1 }));
        assert!(outcomes[0].as_ref().is_some_and(lost), "{outcomes:?}");
        assert_eq!(std::fs::read(&path).unwrap(), b"what was there");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }
}
