//! The watchdog: a batch of noise amid an easy text is skipped, left out, or ends the run; and the best weights are kept.

use super::{json, metrics, names};
use crate::harness::process::Workplace;

/// An easy text with two pieces of noise.
fn place() -> Workplace {
    let place = Workplace::new();
    let mut text: Vec<u8> = b"to be or not to be, ".iter().cycle().take(6000).copied().collect();
    for (at, seed) in [(900, 7u32), (2600, 9), (4100, 5), (5500, 3)] {
        let noise = (0..70u32).map(|i| 33 + ((i * i * 31 + i * seed * 17) % 90) as u8);
        text.splice(at..at + 70, noise);
    }
    std::fs::write(place.path("train.txt"), text).unwrap();
    place
}

const SETS: [&str; 9] = [
    "data.train=['train.txt']",
    "data.validation_fraction=0",
    "train.steps=130",
    "train.warmup=13",
    "optimizer.lr=0.01",
    "train.checkpoint_every=10",
    "train.spike_z=20",
    "train.spike_window=12",
    "train.keep=2",
];

fn args<'a>(more: &[&'a str], flags: &[&'a str]) -> Vec<&'a str> {
    let sets = SETS.iter().chain(more).flat_map(|set| ["--set", set]);
    ["train", "tiny.toml"].into_iter().chain(sets).chain(flags.iter().copied()).collect()
}

fn events(place: &Workplace) -> Vec<(u64, String)> {
    let lines = metrics(place, "run").into_iter();
    lines.filter_map(|line| Some((line["step"].as_u64()?, line["event"].as_str()?.to_owned()))).collect()
}

#[test]
fn a_batch_of_noise_is_not_learned() {
    let place = place();
    let lower = "train.spike_z=4";
    place.ok(&args(&[lower], &[]));
    let events = events(&place);
    assert!(!events.is_empty() && events.iter().all(|(_, event)| event.ends_with("not learned")), "{events:?}");
    // The weights after such a step are those before it.
    let at = events[0].0;
    let (before, after) = (format!("{}", at - 1), format!("{at}"));
    for (run, stop) in [("run.dir=before", before), ("run.dir=after", after)] {
        place.ok(&args(&[lower, run, "train.keep=0"], &["--stop-at", &stop]));
    }
    let (before, after) = (format!("before/step-{:08}.tetrad", at - 1), format!("after/step-{at:08}.tetrad"));
    let output = place.run(&["diff", &before, &after, "--json"]);
    let said = json(&String::from_utf8(output.stdout).unwrap());
    let tensors = said["tensors"].as_array().cloned().unwrap_or_default();
    assert!(!tensors.is_empty() && tensors.iter().all(|tensor| tensor["same"] == true), "{said}");
}

#[test]
fn a_run_may_stop_at_a_spike_in_words() {
    let place = place();
    let said = place.fails(&args(&["train.on_spike=stop"], &[]));
    assert!(said.contains("deviations above the usual (train.spike_z = 20)") && said.contains("step-"), "{said}");
    let said = place.fails(&["train", "tiny.toml", "--set", "train.on_spike=rewind"]);
    assert!(said.contains("train.on_spike") && said.contains("train.spike_z"), "{said}");
}

/// Whether it was stopped before the spike, after it, or again and again.
#[test]
fn a_run_that_went_back_ends_in_the_same_bytes_however_often_it_was_stopped() {
    let whole = place();
    let rewind = ["train.on_spike=rewind", "train.max_rewinds=40"];
    whole.ok(&args(&rewind, &[]));
    let found = events(&whole);
    assert!(!found.is_empty() && found.iter().all(|(_, event)| event.contains("its batch is left out")), "{found:?}");
    let last = "run/step-00000130.tetrad";
    let spike: u64 = {
        let text = found[0].1.strip_prefix("step ").unwrap();
        text.split(':').next().unwrap().parse().unwrap()
    };
    for stops in [vec![spike - 1], vec![spike + 1], vec![spike - 2, spike - 1, spike + 3, 120]] {
        let parts = place();
        for stop in &stops {
            parts.ok(&args(&rewind, &["--resume", "--stop-at", &stop.to_string()]));
        }
        parts.ok(&args(&rewind, &["--resume"]));
        assert!(parts.read(last) == whole.read(last), "stopped at {stops:?}, spike at {spike}");
    }
    // Another limit on what is left out is a refusal to go back.
    let none = place();
    let said = none.fails(&args(&["train.on_spike=rewind", "train.max_rewinds=0"], &[]));
    assert!(said.contains("deviations above the usual"), "{said}");
}

#[test]
fn the_best_weights_are_kept_and_patience_ends_a_run_again_and_again() {
    let place = place();
    std::fs::write(place.path("val.txt"), "something else altogether, with other words. ".repeat(30)).unwrap();
    let more = ["data.validation=['val.txt']", "train.eval_every=5", "train.keep_best=true", "train.patience=3"];
    let said = place.ok(&args(&more, &[]));
    assert!(said.contains("3 validations without an improvement; the best was"), "{said}");
    let lines = metrics(&place, "run");
    let losses: Vec<f64> = lines.iter().filter_map(|line| line["val_loss"].as_f64()).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(losses.iter().position(|loss| *loss == best), losses.len().checked_sub(4), "{losses:?}");
    let measured = json(&place.ok(&["eval", "run/best.tetrad", "--text", "val.txt", "--sequences", "8", "--json"]));
    assert!((measured["loss"].as_f64().unwrap() - best).abs() < 1e-6, "{measured} for {best}");
    assert!(said.contains("weights: run/model.tetrad"), "{said}");
    let finished = place.read("run/model.tetrad");
    let before = place.read("run/best.tetrad");
    let again = place.ok(&args(&more, &["--resume"]));
    assert!(again.contains("3 validations without an improvement") && place.read("run/best.tetrad") == before);
    assert_eq!(
        (place.read("run/model.tetrad"), names(&place, "run").iter().filter(|name| name.contains("model")).count()),
        (finished, 1)
    );
    let compared = place.ok(&["compare", "run", "--json"]);
    assert!(compared.contains("\"finished\":true") || compared.contains("\"finished\": true"), "{compared}");
    for set in ["train.patience=3", "train.keep_best=true"] {
        let said = place.fails(&args(&[set, "train.eval_every=5", "run.dir=other"], &[]));
        assert!(said.contains("no text is held out") && said.contains(&set.replace('=', " = ")), "{said}");
    }
    let said = place.fails(&args(&["train.patience=3", "train.eval_every=0", "run.dir=other"], &[]));
    assert!(said.contains("train.eval_every = 0 makes one, at the end"), "{said}");
}
