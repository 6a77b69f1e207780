//! A run goes on whatever names it, from wherever, whatever was lost: with the bytes of one that was never stopped, or with
//! words.

use super::{names, workplace};
use crate::harness::process::Workplace;
use std::fs;
use std::path::Path;

const LAST: &str = "step-00000012.tetrad";

/// What this run adds to `tiny.toml`.
const SETS: [&str; 12] = [
    "--set",
    "data.train=['train.txt']",
    "--set",
    "train.steps=12",
    "--set",
    "train.warmup=2",
    "--set",
    "train.checkpoint_every=2",
    "--set",
    "data.cache=cache",
    "--set",
    "run.dir=run",
];

fn begin(place: &Workplace, more: &[&str]) -> String {
    place.ok(&[&["train", "tiny.toml"], &SETS[..], more].concat())
}

/// The last checkpoint of a run that was never stopped.
fn uninterrupted() -> Vec<u8> {
    let place = workplace();
    begin(&place, &[]);
    place.read(&format!("run/{LAST}"))
}

/// Runs the program in another folder.
fn in_folder(place: &Workplace, folder: &str, args: &[&str]) -> std::process::Output {
    place.command(args).current_dir(place.path(folder)).output().unwrap()
}

fn ok_in(place: &Workplace, folder: &str, args: &[&str]) -> String {
    let output = in_folder(place, folder, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?} in {folder}: {said}");
    said
}

#[test]
fn whatever_names_a_run_continues_it_from_any_folder() {
    let whole = uninterrupted();
    let place = workplace();
    begin(&place, &["--stop-at", "5"]);
    fs::create_dir(place.path("elsewhere")).unwrap();
    let at = |name: &str| place.path(name).display().to_string();
    let (run, record, checkpoint) = (at("run"), at("run/config.toml"), at("run/step-00000005.tetrad"));
    let dir = format!("run.dir={run}");
    let config = at("tiny.toml");
    let mut same = vec!["train", &config, "--resume"];
    same.extend(&SETS[..10]);
    same.extend(["--set", &dir]);
    let commands: [(&str, Vec<&str>); 9] = [
        (".", vec!["train", "run", "--resume"]),
        ("elsewhere", vec!["train", &run, "--resume"]),
        ("elsewhere", vec!["train", "--resume", &run]),
        ("run", vec!["train", "config.toml", "--resume"]),
        ("elsewhere", vec!["train", &record, "--resume"]),
        ("elsewhere", vec!["train", "--resume", &checkpoint]),
        ("elsewhere", vec!["train", &checkpoint, "--resume"]),
        ("run", vec!["train", ".", "--resume"]),
        ("elsewhere", same),
    ];
    for (folder, command) in commands {
        ok_in(&place, folder, &command);
        assert!(place.read(&format!("run/{LAST}")) == whole, "{command:?}");
        for step in [6, 8, 10, 12] {
            fs::remove_file(place.path(&format!("run/step-{step:08}.tetrad"))).unwrap();
        }
    }
    let said = place.fails(&["train", "run/step-00000005.tetrad"]);
    assert!(said.contains("is a checkpoint") && said.contains("--resume"), "{said}");
    let said = place.fails(&["train", "elsewhere", "--resume"]);
    assert!(said.contains("elsewhere: is a folder without a run"), "{said}");
}

#[test]
fn a_run_goes_on_after_it_was_moved_with_its_texts_or_without() {
    let whole = uninterrupted();
    let place = workplace();
    fs::create_dir_all(place.path("old/runs")).unwrap();
    fs::rename(place.path("train.txt"), place.path("old/train.txt")).unwrap();
    let config = place.path("tiny.toml").display().to_string();
    let mut args = vec!["train", &config];
    args.extend(&SETS[..8]);
    args.extend(["--set", "run.dir=runs/mine", "--set", "data.cache=runs/cache", "--stop-at", "5"]);
    ok_in(&place, "old", &args);
    // All of it, and nothing stays where it was.
    fs::rename(place.path("old"), place.path("new")).unwrap();
    fs::remove_dir_all(place.path("new/runs/cache")).unwrap();
    place.ok(&["train", "new/runs/mine/config.toml", "--resume", "--stop-at", "7"]);
    assert_eq!(names(&place, "new/runs"), ["cache", "mine"]);
    // The folder of the run alone: its texts are where they were.
    fs::rename(place.path("new/runs/mine"), place.path("alone")).unwrap();
    place.ok(&["train", "alone", "--resume"]);
    assert!(place.read(&format!("alone/{LAST}")) == whole);
    assert!(!place.path("old").exists(), "nothing is made where the run once was");
}

#[test]
fn a_run_from_a_model_goes_on_without_model_and_cache() {
    let place = workplace();
    let gguf = format!("{}/fixtures/convert/q4_1.gguf", env!("CARGO_MANIFEST_DIR"));
    place.ok(&["import", &gguf, "-o", "model.tetrad"]);
    let sets = ["train.steps=4", "train.batch=2", "train.sequence=16", "train.warmup=1", "train.sample_tokens=0"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let text = ["--set", "data.train=['train.txt']", "--set", "data.cache=cache", "--set", "train.eval_sequences=1"];
    let command = |run, more: &[&str]| -> Vec<u8> {
        place.ok(&[&["train", "--from", "model.tetrad", "--set", run], &sets[..], &text, more].concat());
        place.read(&format!("{}/step-00000004.tetrad", run.strip_prefix("run.dir=").unwrap()))
    };
    let whole = command("run.dir=whole", &[]);
    // The same command line starts the run and continues it.
    let parts = |more: &[&str]| {
        place.ok(&[&["train", "--from", "model.tetrad", "--set", "run.dir=parts", "--resume"], &sets[..], &text, more]
            .concat())
    };
    parts(&["--stop-at", "2"]);
    fs::remove_dir_all(place.path("cache")).unwrap();
    fs::rename(place.path("model.tetrad"), place.path("gone.tetrad")).unwrap();
    parts(&["--stop-at", "3"]);
    fs::remove_dir_all(place.path("cache")).unwrap();
    place.ok(&["train", "parts", "--resume"]);
    assert!(place.read("parts/step-00000004.tetrad") == whole);
    let said = place.fails(&["train", "--from", "model.tetrad", "--set", "run.dir=third", "--resume"]);
    assert!(said.contains("no such file"), "{said}");
}

#[test]
fn a_checkpoint_alone_needs_its_texts_and_nothing_else() {
    let whole = uninterrupted();
    let place = workplace();
    begin(&place, &["--stop-at", "5"]);
    fs::create_dir(place.path("copy")).unwrap();
    fs::copy(place.path("run/step-00000005.tetrad"), place.path("copy/step-00000005.tetrad")).unwrap();
    let bare = ["train", "--resume", "copy/step-00000005.tetrad", "--set", "data.cache=cache"];
    let said = place.fails(&bare);
    assert!(said.contains("does not hold the texts") && said.contains("data.train"), "{said}");
    place.ok(&[&bare[..], &["--set", "data.train=['train.txt']"]].concat());
    assert!(place.read(&format!("copy/{LAST}")) == whole);
}

/// Makes another content of a file's bytes.
type Damage = fn(&mut Vec<u8>);

#[test]
fn a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_it_is_taken() {
    let whole = uninterrupted();
    let damages: [(&str, Damage); 5] = [
        ("zeroed in the middle", |bytes| bytes[60_000..60_064].fill(0)),
        ("cut", |bytes| bytes.truncate(100_000)),
        ("empty", |bytes| bytes.clear()),
        ("another file", |bytes| bytes[..8].copy_from_slice(b"nonsense")),
        ("of a flipped version", |bytes| bytes[8] ^= 4),
    ];
    for (what, damage) in damages {
        let place = workplace();
        begin(&place, &["--stop-at", "8"]);
        let newest = place.path("run/step-00000008.tetrad");
        let mut bytes = fs::read(&newest).unwrap();
        damage(&mut bytes);
        fs::write(&newest, &bytes).unwrap();
        let output = place.run(&["train", "run", "--resume"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{what}: {said}");
        assert!(
            said.contains("step-00000008.tetrad.damaged") && said.contains("step-00000006.tetrad"),
            "{what}: {said}"
        );
        assert!(place.read(&format!("run/{LAST}")) == whole, "{what}");
        assert!(place.read("run/step-00000008.tetrad.damaged") == bytes, "{what}: it was changed once more");
    }
}

#[test]
fn an_earlier_checkpoint_may_be_named_where_the_later_ones_are_damaged() {
    let place = workplace();
    begin(&place, &["--stop-at", "8"]);
    let said = place.fails(&["train", "run", "--resume", "run/step-00000004.tetrad"]);
    assert!(said.contains("holds later checkpoints, up to step 8"), "{said}");
    for step in [6, 8] {
        fs::write(place.path(&format!("run/step-{step:08}.tetrad")), "damage").unwrap();
    }
    place.ok(&["train", "run", "--resume", "run/step-00000004.tetrad", "--stop-at", "5"]);
    assert_eq!(place.checkpoints("run").last().unwrap(), &place.path("run/step-00000005.tetrad"));
    for path in place.checkpoints("run") {
        fs::write(&path, "damage").unwrap();
    }
    let said = place.fails(&["train", "run", "--resume"]);
    assert!(said.contains("so are all 3 before it; start anew with --overwrite"), "{said}");
    assert!(Path::new(&place.path("run/step-00000005.tetrad")).exists(), "nothing is renamed unless the run goes on");
}
