//! Whole lives of runs, drawn from seeds: trained, stopped, killed within a save, damaged, moved, pruned, resumed with
//! other threads and other settings. The run that nothing happened to is the model: what a life computes has its bytes,
//! what a life cannot do is refused in words. `TETRAD_LIVES=20000` lives that many; `TETRAD_LIFE=17` the one of a seed.

mod life;
mod plan;

use life::{Life, Shadow};
use plan::{Verb, draw, shrink};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Lives a plan; what went wrong, if anything did.
fn live(shadow: &Shadow, plan: &[Verb]) -> Result<(), String> {
    let mut life = Life::begin(shadow);
    for (at, verb) in plan.iter().enumerate() {
        life.take(*verb).map_err(|wrong| format!("{}. {verb:?}: {wrong}", at + 1))?;
    }
    Ok(())
}

#[test]
fn every_life_computes_what_the_undisturbed_run_does_or_refuses_in_words() {
    let shadow = Shadow::new();
    let seeds = match number("TETRAD_LIFE") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TETRAD_LIVES").unwrap_or(300),
    };
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let plan = draw(seed);
        if let Err(wrong) = live(&shadow, &plan) {
            let small = shrink(&plan, |plan| live(&shadow, plan).is_err());
            let said = live(&shadow, &small).err().unwrap_or_default();
            panic!("seed {seed}: {wrong}\nshrunk to {small:#?}\n{said}");
        }
    }
    let seen = shadow.seen.borrow();
    if count >= 300 {
        // A driver that never meets a case would prove nothing about it.
        for what in ["resumed", "refused", "damaged newest", "all damaged", "killed in a save", "finished", "moved"] {
            assert!(seen.get(what).is_some_and(|times| *times > 2), "{what} in {count} lives: {seen:?}");
        }
    }
}

#[test]
fn a_fault_is_found_and_shrunk_to_what_it_takes() {
    let mut shadow = Shadow::new();
    shadow.sabotage = true;
    let (seed, plan) = (0..100).map(|seed| (seed, draw(seed))).find(|(_, plan)| live(&shadow, plan).is_err()).unwrap();
    let small = shrink(&plan, |plan| live(&shadow, plan).is_err());
    assert!(small.len() < plan.len() && small.len() <= 4, "seed {seed}: {small:?}");
    for left_out in 0..small.len() {
        let mut less = small.clone();
        less.remove(left_out);
        assert!(live(&shadow, &less).is_ok(), "{small:?} needs no {:?}", small[left_out]);
    }
}
