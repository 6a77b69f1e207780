//! `train --adapter`, and what is done with an adapter: as a user does it.

use super::{TEXT, json, names, trained};
use crate::harness::process::Workplace;
use serde_json::Value;

const ADAPTER: [&str; 10] = [
    "train",
    "--from",
    "run/model.tetrad",
    "--adapter",
    "lora",
    "--set",
    "run.dir=tuned",
    "--set",
    "adapter.rank=4",
    "--device=cpu",
];

const SHORT: [&str; 8] = [
    "--set",
    "train.steps=20",
    "--set",
    "train.batch=4",
    "--set",
    "train.checkpoint_every=10",
    "--set",
    "optimizer.lr=0.01",
];

fn tune(place: &Workplace, more: &[&str]) -> String {
    place.ok(&[&ADAPTER, &TEXT[..], &SHORT, more].concat())
}

fn loss(place: &Workplace, more: &[&str]) -> f64 {
    let found: Value = json(&place.ok(&[&["eval", "run/model.tetrad", "--text", "val.txt", "--json"], more].concat()));
    found["loss"].as_f64().unwrap()
}

#[test]
fn an_adapter_is_trained_resumed_evaluated_and_sampled() {
    let place = trained();
    let base = place.read("run/model.tetrad");
    let said = tune(&place, &[]);
    assert!(said.contains("trained (") && said.contains("is frozen"), "{said}");
    assert!(place.read("run/model.tetrad") == base, "the base was written to");
    let files = ["adapter.tetrad", "config.toml", "metrics.jsonl", "step-00000000.tetrad", "step-00000010.tetrad"];
    assert!(
        files.iter().all(|file| names(&place, "tuned").contains(&(*file).to_owned())),
        "{:?}",
        names(&place, "tuned")
    );
    assert!(!names(&place, "tuned").contains(&"model.tetrad".to_owned()));
    let alone = loss(&place, &[]);
    let adapted = loss(&place, &["--adapter", "tuned/adapter.tetrad"]);
    assert!(adapted < alone, "{adapted} with the adapter, {alone} without");
    assert_eq!(loss(&place, &["--adapter", "tuned/adapter.tetrad=0"]), alone);
    let half = loss(&place, &["--adapter", "tuned/adapter.tetrad=0.5"]);
    assert!(half != alone && half != adapted);
    let sample = ["sample", "run/model.tetrad", "--prompt", "The ", "--max-tokens", "8", "--temperature", "0"];
    place.ok(&[&sample[..], &["--adapter", "tuned/adapter.tetrad"]].concat());

    // Stopped and continued: the same bytes; the run knows its base.
    let whole = place.read("tuned/adapter.tetrad");
    tune(&place, &["--set", "run.dir=again", "--stop-at", "10"]);
    place.ok(&["train", "again", "--resume"]);
    assert!(place.read("again/adapter.tetrad") == whole, "a resumed run ends in other bytes");

    // From its weights, with a new optimizer.
    let more = ["train", "--from", "run/model.tetrad", "--adapter", "tuned/adapter.tetrad", "--set", "run.dir=more"];
    place.ok(&[&more, &TEXT[..], &SHORT].concat());

    for command in ["dump", "verify"] {
        place.ok(&[command, "tuned/adapter.tetrad"]);
    }
    place.ok(&["diff", "tuned/adapter.tetrad", "again/adapter.tetrad"]);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let place = trained();
    tune(&place, &[]);
    let fails = |arguments: &[&str]| place.fails(arguments);
    let text = ["--text", "val.txt"];
    let alone = fails(&[&["eval", "tuned/adapter.tetrad"][..], &text].concat());
    assert!(alone.contains("is an adapter") && alone.contains("--adapter"), "{alone}");
    let swapped = fails(&[&["eval", "run/model.tetrad", "--adapter", "run/model.tetrad"][..], &text].concat());
    assert!(swapped.contains("not an adapter"), "{swapped}");
    let scale = fails(&[&["eval", "run/model.tetrad", "--adapter", "tuned/adapter.tetrad=x"][..], &text].concat());
    assert!(scale.contains("must be a number"), "{scale}");
    place.ok(&[&["train", "tiny.toml"], &TEXT[..], &["--set", "train.steps=20", "--set", "run.dir=other"]].concat());
    let other = fails(&[&["eval", "other/model.tetrad", "--adapter", "tuned/adapter.tetrad"][..], &text].concat());
    assert!(other.matches("fingerprint").count() >= 2, "{other}");
    let baseless = fails(&[&["train", "tiny.toml", "--adapter", "lora", "--set", "run.dir=x"], &TEXT[..]].concat());
    assert!(baseless.contains("--from"), "{baseless}");
    let unknown = fails(&["train", "--from", "run/model.tetrad", "--adapter", "lara"]);
    assert!(unknown.contains("adapter.kind") && unknown.contains("lora"), "{unknown}");
}

#[test]
fn prefixes_and_bottlenecks_are_trained_and_used_and_not_merged() {
    let place = trained();
    let alone = loss(&place, &[]);
    for kind in ["prefix", "bottleneck"] {
        let dir = format!("run.dir={kind}");
        let train = ["train", "--from", "run/model.tetrad", "--adapter", kind, "--set", &dir, "--device=cpu"];
        place.ok(&[&train, &TEXT[..], &SHORT].concat());
        let file = format!("{kind}/adapter.tetrad");
        let adapted = loss(&place, &["--adapter", &file]);
        assert!(adapted < alone, "{kind}: {adapted}, {alone} without it");
        assert_eq!(loss(&place, &["--adapter", &format!("{file}=0")]), alone, "{kind}");
        let sample = ["sample", "run/model.tetrad", "--prompt", "The ", "--max-tokens", "8", "--adapter", &file];
        place.ok(&sample);
        let merge = place.fails(&["merge", "run/model.tetrad", "--adapter", &file, "-o", "merged.tetrad"]);
        assert!(merge.contains(kind) && !place.path("merged.tetrad").exists(), "{merge}");
        let export = place.fails(&["export", &file, "-o", "out.gguf"]);
        assert!(export.contains(kind) && !place.path("out.gguf").exists(), "{export}");
    }
    let prefix = "prefix/adapter.tetrad";
    let two = ["eval", "run/model.tetrad", "--text", "val.txt", "--adapter", prefix, "--adapter", prefix];
    let two = place.fails(&two);
    assert!(two.contains("one prefix only"), "{two}");
    let unread = ["train", "--from", "run/model.tetrad", "--adapter", "prefix", "--set", "adapter.rank=4"];
    let unread = place.fails(&[&unread, &TEXT[..]].concat());
    assert!(unread.contains("adapter.rank") && unread.contains("lora"), "{unread}");
}
