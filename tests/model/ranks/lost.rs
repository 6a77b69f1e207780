//! A rank that is lost, at any call that it makes: in the chain of a gradient, before and after an update, while weights are
//! given to all, in the middle of a checkpoint.

use super::watched::Watched;
use super::{Life, config, joined, on_each};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tetrad::checkpoint::{Checkpoint, Extent, Meta, contribute, save_divided};
use tetrad::config::Config;
use tetrad::error::RanksError;
use tetrad::ranks::Ranks;
use tetrad::train::Trainer;

/// A step, a checkpoint, a step, a checkpoint; ends at the first error. What is left, and how many calls were made.
fn live(config: &Config, ranks: Arc<dyn Ranks>, last: usize, folder: &Path) -> (usize, Result<(), String>) {
    let (calls, rank) = (Arc::new(AtomicUsize::new(0)), ranks.rank());
    let made = calls.clone();
    // It makes so many calls, and is gone at the next.
    let see = move |_| match made.fetch_add(1, Ordering::Relaxed) < last {
        true => Ok(()),
        false => Err(RanksError::Lost { rank }),
    };
    let mut trainer = Life::new(config).trainer(Arc::new(Watched { inner: ranks, see }), 1);
    let step = |trainer: &mut Trainer, number: u32| -> Result<(), String> {
        let (rows, sequence) = (trainer.rows(), config.train.sequence);
        let all: Vec<u32> = (0..=(config.train.batch * sequence) as u32).map(|i| (i * i + number * 31) % 256).collect();
        let part = |all: &[u32]| all[rows.start * sequence..rows.end * sequence].to_vec();
        trainer.step(&part(&all), &part(&all[1..]));
        trainer.status().map_err(|error| error.to_string())?;
        let path = folder.join(format!("{number}.tetrad"));
        let meta = Meta::new(trainer.config(), trainer.counters(), false, "text");
        match trainer.ranks().rank() {
            0 => save_divided(trainer, &meta, &[], Extent::Full, &path).map_err(|error| error.to_string()),
            _ => contribute(trainer).map_err(|error| error.to_string()),
        }
    };
    let end = [0, 1].into_iter().try_for_each(|number| step(&mut trainer, number));
    (calls.load(Ordering::Relaxed), end)
}

/// What three ranks leave, of which one makes `last` calls; and the number of its calls, if none is lost.
fn lose(config: &Config, victim: usize, last: usize, folder: &Path) -> (usize, Vec<Result<(), String>>) {
    let mut config = config.clone();
    config.run.dir = folder.into();
    let ends = on_each(3, |ranks| {
        let last = if ranks.rank() == victim { last } else { usize::MAX };
        live(&config, ranks, last, folder)
    });
    (ends[victim].0, ends.into_iter().map(|(_, end)| end).collect())
}

/// The planes of a checkpoint: the record of the configuration names another folder in each.
fn state(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let file = tetrad::format::File::parse(&bytes).unwrap();
    file.head()
        .planes
        .iter()
        .map(|plane| bytes[plane.range().start as usize..plane.range().end as usize].to_vec())
        .collect()
}

#[test]
fn whenever_a_rank_is_lost_the_others_end_and_the_last_checkpoint_is_whole() {
    let whole = tempfile::tempdir().unwrap();
    let mut config = config();
    (config.model.layers, config.train.micro_batch) = (1, 1);
    let written = ["0.tetrad", "1.tetrad"];
    for victim in 0..3 {
        let (calls, ends) = lose(&config, victim, usize::MAX, whole.path());
        assert!(ends.iter().all(Result::is_ok) && calls > 30, "{calls} calls, {ends:?}");
        let expected = written.map(|name| state(&whole.path().join(name)));
        assert!(expected[0] != expected[1], "a step moves something");
        for last in 0..calls {
            let folder = tempfile::tempdir().unwrap();
            let (_, ends) = lose(&config, victim, last, folder.path());
            let lost: Vec<usize> = (0..3).filter(|rank| ends[*rank].is_err()).collect();
            // Who has made all its calls, to a rank that was lost after that, does not learn of it.
            assert!(lost.contains(&victim), "rank {victim} after {last} of {calls} calls: {ends:?}");
            for (name, expected) in written.iter().zip(&expected) {
                let path = folder.path().join(name);
                if path.exists() {
                    Checkpoint::open_sound(&path).unwrap();
                    assert!(state(&path) == *expected, "rank {victim} after {last} calls: {name}");
                }
            }
            let partial = std::fs::read_dir(folder.path()).unwrap().count();
            let whole = written.iter().filter(|name| folder.path().join(name).exists()).count();
            assert_eq!(partial, whole, "rank {victim} after {last} calls: nothing is left half written");
        }
    }
}

#[test]
fn what_a_lost_rank_left_is_gone_on_with_by_others_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let config = config();
    let (calls, _) = lose(&config, 1, usize::MAX, folder.path());
    std::fs::remove_file(folder.path().join("1.tetrad")).unwrap();
    // In the second step.
    let (_, ends) = lose(&config, 1, calls * 3 / 4, folder.path());
    assert!(ends[1].is_err() && !folder.path().join("1.tetrad").exists(), "{ends:?}");
    let left = Checkpoint::open_sound(&folder.path().join("0.tetrad")).unwrap();
    let expected = Life { from: Some(&left), steps: 1..3, ..Life::new(&config) }.alone();
    for size in [2, 4] {
        let found = joined(Life { from: Some(&left), steps: 1..3, ..Life::new(&config) }.on_ranks(size, &|_| {}));
        assert!(found == expected, "{size} ranks");
    }
}
