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
    assert_eq!((loss(&place, &["--adapter", "tuned"]), loss(&place, &["--adapter", "tuned=0.5"])), (adapted, half));
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

/// The folder of its run stands for an adapter, and where a model is needed says which.
#[test]
fn the_folder_of_a_run_stands_for_its_adapter() {
    let place = trained();
    tune(&place, &[]);
    tune(&place, &["--set", "run.dir=half", "--stop-at", "10"]);
    for args in [&["dump", "tuned"][..], &["verify", "tuned"], &["diff", "tuned", "tuned/adapter.tetrad"]] {
        place.ok(args);
    }
    place.ok(&["merge", "run", "--adapter", "tuned", "-o", "merged.tetrad"]);
    place.ok(&["export", "tuned", "-o", "peft"]);
    let more = ["train", "--from", "run", "--adapter", "tuned", "--set", "run.dir=more", "--set", "train.steps=1"];
    place.ok(&[&more, &TEXT[..]].concat());
    place.ok(&["plan", "--from", "run", "--adapter", "tuned"]);
    let base = place.path("run/model.tetrad").canonicalize().unwrap();
    for args in [&["eval", "tuned", "--text", "val.txt"][..], &["sample", "tuned"], &["train", "--from", "tuned"]] {
        let said = place.fails(args);
        let expected = format!("this is an adapter's run; name {} and --adapter tuned\n", base.display());
        assert!(said.ends_with(&expected), "{args:?}: {said}");
    }
    for args in [&["sample", "half"][..], &["sample", "run", "--adapter", "half"], &["dump", "half"]] {
        let said = place.fails(args);
        let at = "this adapter's run is at step 10 of 20; name ";
        assert!(said.contains(at) && said.ends_with(" and --adapter half/step-00000010.tetrad\n"), "{args:?}: {said}");
    }
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
    let takes =
        "no such file, and no kind of adapter; it takes lora, prefix, bottleneck, or a trained adapter: its file";
    assert!(unknown.contains(&format!("--adapter lara: {takes}")), "{unknown}");
    for command in ["train", "plan"] {
        let missing = fails(&[command, "--from", "run/model.tetrad", "--adapter", "tuned/none.tetrad"]);
        assert!(missing.contains(&format!("--adapter tuned/none.tetrad: {takes}")), "{missing}");
    }
    // What was started from is not resumed.
    for (more, key) in [
        (&["--from", "run", "--adapter", "tuned", "--set", "adapter.rank=8"][..], "adapter.rank"),
        (&["--from", "run", "--set", "model.hidden=48"], "model.hidden"),
        (&["--from", "run", "--adapter", "lora", "--set", "storage.group=64"], "storage.group"),
    ] {
        let said = fails(&[&["train", "--set", "run.dir=x"], more, &TEXT[..]].concat());
        let advice =
            format!("leave {key} out (a preset has it, too), and the file's value is used, or start from a file");
        assert!(said.contains(&advice) && !said.contains("resume"), "{said}");
    }
    let model = fails(&["train", "--from", "run/model.tetrad", "--adapter", "other"]);
    assert!(model.contains("other/model.tetrad") && model.contains("not an adapter"), "{model}");
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
