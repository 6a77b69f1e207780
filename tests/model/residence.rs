//! Parameters in a working file below the run's folder: the same bytes, and little of them in memory.

use crate::harness::small::{batch, config};
use crate::harness::{small, state};
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::Checkpoint;
use tetrad::config::Config;
use tetrad::memory::{Category, Place};
use tetrad::model::Offload;
use tetrad::train::{Trainer, plan};

fn away(config: &Config, weights: Offload, state: Offload, dir: &std::path::Path) -> Config {
    let mut config = config.clone();
    (config.offload.weights, config.offload.optimizer, config.run.dir) = (weights, state, dir.into());
    config
}

#[test]
fn parameters_in_a_file_are_trained_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let edits: [fn(&mut Config); 2] = [|_| {}, |config| config.model.tied = true];
    for edit in edits {
        let mut config = config();
        edit(&mut config);
        config.train.micro_batch = 2;
        let run = |weights, state| {
            let mut trainer = small::trainer(&away(&config, weights, state, folder.path()), Box::new(Cpu::new()));
            for number in 0..3 {
                let (inputs, targets) = batch(number);
                trainer.step(&inputs, &targets);
            }
            trainer
        };
        let here = run(Offload::Device, Offload::Device);
        for (weights, state) in [(Offload::Device, Offload::File), (Offload::File, Offload::File)] {
            let there = run(weights, state);
            assert!(state::whole_state(&here) == state::whole_state(&there), "{weights:?} and {state:?}");
            let path = folder.path().join("saved");
            small::write(&there, &path);
            let checkpoint = Checkpoint::open(&path).unwrap();
            let mut again = Trainer::new(&away(&config, weights, state, folder.path()), Box::new(Cpu::new())).unwrap();
            checkpoint.restore(&mut again, "text").unwrap();
            assert!(state::whole_state(&here) == state::whole_state(&again), "{weights:?} and {state:?}, restored");
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["saved"], "working files have no names");
}

#[test]
fn what_is_in_the_file_is_not_in_memory() {
    let folder = std::path::Path::new("runs");
    let config = Config::preset("3b").unwrap();
    let bytes = |weights, state| {
        let plan = plan(&away(&config, weights, state, folder), &Cpu::new()).0;
        let of = |place| {
            let parameters = [Category::Weights, Category::Residue, Category::State];
            let items = plan.items().iter().filter(|item| item.span.place == place);
            items.filter(|item| parameters.contains(&item.category)).map(|item| item.span.bytes).sum::<usize>()
        };
        assert_eq!(plan.host_total(), of(Place::Host));
        (of(Place::Arena), of(Place::Host))
    };
    let (all, none) = bytes(Offload::Device, Offload::Device);
    assert_eq!(none, 0);
    let (weights, state) = bytes(Offload::Device, Offload::File);
    assert!(weights + state >= all && weights + state < all + all / 1000, "{weights} and {state} of {all}");
    assert!(weights < all / 2, "{weights} of {all} bytes are weights");
    assert_eq!(bytes(Offload::File, Offload::File).0, 0);
    // On a CPU the machine's memory is the device's.
    assert_eq!(bytes(Offload::Host, Offload::Host), (all, 0));
}

#[test]
fn a_folder_that_cannot_hold_the_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("taken");
    std::fs::write(&file, "no folder").unwrap();
    let config = away(&config(), Offload::File, Offload::File, &file);
    let error = Trainer::new(&config, Box::new(Cpu::new())).err().expect("a file is no folder").to_string();
    assert!(error.contains("taken"), "{error}");
}
