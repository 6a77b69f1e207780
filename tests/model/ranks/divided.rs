//! What is divided among ranks: held by one, saved whole.

use super::{Life, config, held, joined};
use crate::harness::small;
use tetrad::checkpoint::{Checkpoint, contribute};
use tetrad::config::Config;
use tetrad::memory::{Category, Span};
use tetrad::model::{ParamSpec, param_specs, place_param};
use tetrad::train::plan;

/// Residue and state lie where a parameter is updated, and nowhere else: three ranks hold them once in all.
#[test]
fn each_rank_holds_its_part_of_the_state_and_a_plan_tells_the_largest() {
    let config = config();
    let whole = held(&Life::new(&config).alone());
    for size in [2usize, 3, 5] {
        let ends = Life::new(&config).on_ranks(size, &|trainer| {
            let mut planned = trainer.config().clone();
            planned.run.ranks = size;
            let own = trainer.plan().total();
            let most = plan(&planned, trainer.backend()).0.total();
            assert!(own <= most, "rank {} takes {own} bytes, planned were {most}", trainer.ranks().rank());
        });
        let parts: Vec<usize> = ends.iter().map(held).collect();
        let weights = (parts.iter().sum::<usize>() - whole) / (size - 1);
        let state = whole - weights;
        // The largest parameter is a table, which lies on one of them.
        let most = parts.iter().map(|part| part - weights).max().unwrap();
        assert!(state > weights && most < state * 3 / 4, "{size} ranks hold {parts:?} bytes of {whole}");
    }
}

/// Ranks hold about as much of what is divided.
#[test]
fn parameters_are_dealt_evenly_each_to_one_rank() {
    for (preset, ranks, worst) in [("quickstart", 2, 1.3), ("7b-compact", 8, 1.15), ("7b-compact", 64, 1.35)] {
        let mut config = Config::preset(preset).unwrap();
        config.run.ranks = ranks;
        let of = |rank| {
            let mut settings = config.settings();
            settings.execution.rank = rank;
            param_specs(&settings)
        };
        let bytes = |spec: &ParamSpec| {
            let mut sum = 0;
            place_param(&ParamSpec { held: true, ..spec.clone() }, &mut |_, category, bytes| {
                sum += if category == Category::Weights { 0 } else { bytes };
                Span::NONE
            });
            sum
        };
        let mut loads = vec![0; ranks];
        for (rank, load) in loads.iter_mut().enumerate() {
            let specs = of(Some(rank));
            assert!(specs.iter().all(|spec| spec.held == (spec.owner == rank)));
            *load = specs.iter().filter(|spec| spec.held).map(bytes).sum::<usize>();
        }
        let (most, all) = (*loads.iter().max().unwrap(), loads.iter().sum::<usize>());
        assert_eq!(all, of(None).iter().map(bytes).sum::<usize>(), "{preset}: each is held once");
        assert!(most as f64 <= worst * all as f64 / ranks as f64, "{preset} on {ranks} ranks: {most} bytes of {all}");
        let planned: usize = of(None).iter().filter(|spec| spec.held).map(bytes).sum();
        assert_eq!(planned, most, "a plan is that of the rank with the most");
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let config = config();
    let expected = Life { steps: 0..6, ..Life::new(&config) }.alone();
    let mut from: Option<Checkpoint> = None;
    for (size, steps) in [(3, 0..2), (1, 2..3), (4, 3..5), (2, 5..6)] {
        let path = folder.path().join(format!("{}.tetrad", steps.end));
        let life = Life { from: from.as_ref(), steps: steps.clone(), ..Life::new(&config) };
        let end = joined(life.on_ranks(size, &|trainer| match trainer.ranks().rank() {
            0 => small::write(trainer, &path),
            _ => contribute(trainer).unwrap(),
        }));
        assert_eq!(end.0, expected.0[steps.start as usize..steps.end as usize]);
        from = Some(Checkpoint::open_sound(&path).unwrap());
        if steps.end == 6 {
            assert!(end.1 == expected.1, "the bytes after all");
        }
    }
}
