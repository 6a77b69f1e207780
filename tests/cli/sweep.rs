//! `sweep`: what it trains, skips, notes and continues.

use super::harness::process::Workplace;
use super::{json, names, workplace};
use std::process::{Output, Stdio};
use std::time::Duration;
use tetrad::store::Lock;

/// A sweep of `tiny.toml`: two arms, a rate each, two seeds.
const SWEEP: &str = r#"
    base = "tiny.toml"
    dir = "runs"
    records = "records.jsonl"
    seeds = [1, 2]
    [set]
    data.train = ["train.txt"]
    data.validation = ["val.txt"]
    train.steps = 6
    train.warmup = 2
    train.eval_every = 3
    [vary]
    optimizer.lr = [0.004]
    [score]
    other = "other.txt"
    [arm.packed]
    [arm.float]
    seeds = [1]
    set.storage.weights = "f32"
"#;

fn place(sweep: &str) -> Workplace {
    let place = workplace();
    let corpus = include_str!("../../assets/corpus/austen.txt");
    std::fs::write(place.path("other.txt"), &corpus[60_000..62_000]).unwrap();
    std::fs::write(place.path("sweep.toml"), sweep).unwrap();
    place
}

fn sweep(place: &Workplace, more: &[&str]) -> Output {
    place.run(&[&["sweep", "sweep.toml"], more].concat())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn records(place: &Workplace) -> Vec<serde_json::Value> {
    String::from_utf8(place.read("records.jsonl")).unwrap().lines().map(json).collect()
}

const PACKED: &str = "runs/packed/optimizer.lr=0.004/seed=2";

/// Two sweeps of one file leave each other's runs alone, from before the first process is there on.
#[test]
fn a_run_that_another_sweep_has_claimed_is_left_to_it() {
    let place = place(SWEEP);
    std::fs::create_dir_all(place.path(PACKED)).unwrap();
    let claim = Lock::acquire(place.path(PACKED).join(".sweep.lock")).unwrap();
    let first = said(&sweep(&place, &[]));
    assert!(first.contains("2 of 3 runs are done, 1 under way in another process\n"), "{first}");
    assert!(!first.contains("failed") && !names(&place, PACKED).contains(&"failed.json".into()), "{first}");
    drop(claim);
    let second = said(&sweep(&place, &[]));
    assert!(second.contains("3 of 3 runs are done\n"), "{second}");
    assert_eq!(records(&place).len(), 3);
}

#[test]
fn a_sweep_trains_scores_and_records_every_run_once() {
    let place = place(SWEEP);
    let first = sweep(&place, &[]);
    assert!(first.status.success(), "{}", said(&first));
    assert!(said(&first).contains("3 of 3 runs are done\n"), "{}", said(&first));
    let files = names(&place, PACKED);
    for file in ["arm.json", "config.toml", "log.txt", "metrics.jsonl", "model.tetrad", "score.json"] {
        assert!(files.contains(&file.into()), "{file} is not in {files:?}");
    }
    let found = records(&place);
    assert_eq!(found.len(), 3);
    for record in &found {
        assert_eq!((&record["finished"], &record["steps_done"]), (&true.into(), &6.into()), "{record}");
        let steps: Vec<u64> = record["validation"].as_array().unwrap().iter().map(|p| p[0].as_u64().unwrap()).collect();
        assert_eq!(steps, [3, 6]);
        assert!(record["scores"]["other"]["loss"].as_f64().unwrap() > 1.0, "{record}");
        assert_eq!(record["settings"]["optimizer.lr"], 0.004);
    }
    let arms: Vec<_> = found.iter().map(|record| record["arm"].as_str().unwrap()).collect();
    assert_eq!(arms, ["packed", "packed", "float"]);
    // Once more nothing is trained, nor is it where only the records are left.
    let metrics = place.read(&format!("{PACKED}/metrics.jsonl"));
    assert!(!said(&sweep(&place, &[])).contains("begin"));
    assert!(place.read(&format!("{PACKED}/metrics.jsonl")) == metrics);
    std::fs::remove_dir_all(place.path("runs")).unwrap();
    let third = sweep(&place, &[]);
    assert!(third.status.success() && !place.path("runs").exists(), "{}", said(&third));
    assert_eq!(records(&place), found);
    // Another configuration of the same name is another run.
    std::fs::write(place.path("sweep.toml"), SWEEP.replace("train.steps = 6", "train.steps = 7")).unwrap();
    let status = place.ok(&["sweep", "sweep.toml", "--status"]);
    assert!(status.contains("0 of 3 runs are done"), "{status}");
}

/// Everything but the lines of the log and the times in the metrics.
fn weights(place: &Workplace, run: &str) -> Vec<u8> {
    place.read(&format!("{run}/model.tetrad"))
}

#[test]
fn runs_beside_each_other_end_in_the_same_bytes_as_alone() {
    let place = place(&SWEEP.replace("[score]\n    other = \"other.txt\"", ""));
    assert!(sweep(&place, &[]).status.success());
    let alone = weights(&place, PACKED);
    std::fs::remove_dir_all(place.path("runs")).unwrap();
    std::fs::remove_file(place.path("records.jsonl")).unwrap();
    let beside = sweep(&place, &["--jobs", "3"]);
    assert!(beside.status.success(), "{}", said(&beside));
    assert!(weights(&place, PACKED) == alone);
    assert_eq!(records(&place).len(), 3);
}

#[test]
fn a_failed_run_is_noted_and_the_others_go_on() {
    let text = SWEEP.replace("set.storage.weights = \"f32\"", "set.data.train = [\"later.txt\"]");
    let place = place(&text);
    let first = sweep(&place, &[]);
    assert_eq!(first.status.code(), Some(1), "{}", said(&first));
    assert!(said(&first).contains("failed   float optimizer.lr=0.004 seed=1: "), "{}", said(&first));
    assert!(said(&first).contains("2 of 3 runs are done, 1 failed"), "{}", said(&first));
    let reason = records(&place)[2]["failed"].as_str().unwrap().to_owned();
    assert!(reason.contains("later.txt"), "{reason}");
    std::fs::copy(place.path("train.txt"), place.path("later.txt")).unwrap();
    let second = sweep(&place, &[]);
    assert!(second.status.code() == Some(1) && !said(&second).contains("begin"), "{}", said(&second));
    let third = sweep(&place, &["--retry"]);
    assert!(third.status.success() && said(&third).contains("3 of 3 runs are done\n"), "{}", said(&third));
}

#[test]
fn an_interrupted_sweep_is_continued_to_the_same_bytes() {
    let text = SWEEP.split("[score]").next().unwrap().replace("train.steps = 6", "train.steps = 120");
    let place = place(&(text + "[arm.packed]\n"));
    let whole = Workplace::new();
    for file in ["train.txt", "val.txt", "sweep.toml"] {
        std::fs::copy(place.path(file), whole.path(file)).unwrap();
    }
    assert!(sweep(&whole, &["--jobs", "2"]).status.success());
    let mut child = place.command(&["sweep", "sweep.toml", "--jobs", "2"]).stdout(Stdio::piped()).spawn().unwrap();
    while !place.path(&format!("{PACKED}/metrics.jsonl")).exists() {
        assert!(child.try_wait().unwrap().is_none(), "the sweep ended");
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let status = place.ok(&["sweep", "sweep.toml", "--status"]);
    // A run that was quick enough is done; nothing failed, and no process is left.
    assert!(!status.contains("failed") && !status.contains("under way"), "{status}");
    assert!(sweep(&place, &[]).status.success());
    for seed in [1, 2] {
        let run = format!("runs/packed/optimizer.lr=0.004/seed={seed}");
        assert!(weights(&place, &run) == weights(&whole, &run), "seed {seed}");
    }
}

#[test]
fn other_seeds_train_the_best_value_of_the_first() {
    let tuned = SWEEP.replace("seeds = [1, 2]", "seeds = [1, 2]\n    tune = \"optimizer.lr\"");
    let place = place(&tuned.replace("[0.004]", "[1e-7, 0.004, 1.0]").replace("train.steps = 6", "train.steps = 12"));
    let first = sweep(&place, &[]);
    assert!(first.status.success(), "{}", said(&first));
    let rates = |arm: &str, seed: u64| {
        let of = |r: &&serde_json::Value| r["arm"] == arm && r["seed"] == seed;
        let found = records(&place);
        found.iter().filter(of).map(|r| r["settings"]["optimizer.lr"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((rates("packed", 1), rates("packed", 2)), (vec![1e-7, 0.004, 1.0], vec![0.004]));
    assert_eq!(rates("float", 1).len(), 3);
    assert!(said(&first).contains("waits: never: another value is better"), "{}", said(&first));
    // At an end of the range nothing is known of the best.
    std::fs::write(
        place.path("sweep.toml"),
        tuned.replace("[0.004]", "[1e-7, 0.004]").replace("train.steps = 6", "train.steps = 12"),
    )
    .unwrap();
    std::fs::remove_file(place.path("records.jsonl")).unwrap();
    std::fs::remove_dir_all(place.path("runs/packed/optimizer.lr=0.004/seed=2")).unwrap();
    let edge = sweep(&place, &[]);
    assert!(said(&edge).contains("waits: the best value is at an end of its range"), "{}", said(&edge));
    assert!(rates("packed", 2).is_empty());
}

#[test]
fn a_dry_run_says_how_long_and_leaves_nothing() {
    let place = place(SWEEP);
    let before = names(&place, ".");
    let told = place.ok(&["sweep", "sweep.toml", "--dry-run", "--jobs", "2"]);
    assert!(told.contains("3 runs are left, about ") && told.contains(" with --jobs 2\n"), "{told}");
    assert!(told.contains("(2 kinds of runs were measured with a few steps)"), "{told}");
    let mut after = names(&place, ".");
    after.retain(|name| !before.contains(name));
    assert!(after.iter().all(|name| name == "runs"), "{after:?}");
    assert!(!place.path("runs/packed").exists(), "only prepared text is kept");
    assert!(sweep(&place, &[]).status.success());
    let told = place.ok(&["sweep", "sweep.toml", "--dry-run"]);
    assert!(told.contains("0 runs are left, about 0s with --jobs 1\n") && !told.contains("measured"), "{told}");
}

#[test]
fn a_folder_with_another_run_is_left_alone() {
    let place =
        place(&SWEEP.replace("[score]\n    other = \"other.txt\"", "").replace("records = \"records.jsonl\"", ""));
    assert!(sweep(&place, &[]).status.success());
    let before = weights(&place, PACKED);
    let text = String::from_utf8(place.read("sweep.toml")).unwrap().replace("train.steps = 6", "train.steps = 9");
    std::fs::write(place.path("sweep.toml"), text).unwrap();
    let told = sweep(&place, &[]);
    assert!(said(&told).contains("differs: the folder holds a run of another configuration"), "{}", said(&told));
    assert!(!said(&told).contains("begin") && weights(&place, PACKED) == before);
    assert_eq!(told.status.code(), Some(1), "{}", said(&told));
    let held =
        "3 of 3 runs are held up, since their folders hold runs of another configuration; move those folders away";
    assert!(said(&told).contains(held), "{}", said(&told));
    // Nor is it compared as a run of the sweep.
    let refused = place.fails(&["compare", "sweep.toml"]);
    let why =
        "runs/packed/optimizer.lr=0.004/seed=2: holds a run of another configuration than the sweep's; move it away";
    assert!(refused.contains("no finished run") && refused.contains(why), "{refused}");
    std::fs::rename(place.path("runs/float"), place.path("elsewhere")).unwrap();
    assert_eq!(sweep(&place, &[]).status.code(), Some(1));
    let compared = place.ok(&["compare", "sweep.toml"]);
    let (arms, left_out) = compared.split_once("## Left out").unwrap();
    assert!(arms.contains("| float |") && !arms.contains("packed"), "{compared}");
    assert_eq!(left_out.matches("holds a run of another configuration").count(), 2, "{compared}");
}

/// Runs that start from a model, itself or an adapter beside it, are trained, scored and recorded like others; of another
/// model they are other runs.
#[test]
fn a_sweep_can_start_from_a_model() {
    let place = place(&format!(
        "from = \"base.tetrad\"\n{}",
        SWEEP
            .replace("base = \"tiny.toml\"", "")
            .replace("seeds = [1, 2]", "")
            .replace("[arm.packed]", "[arm.bytes]\n    set.storage.weights = \"int8\"")
            .replace(
                "[arm.float]\n    seeds = [1]\n    set.storage.weights = \"f32\"",
                "[arm.lora]\n    set.adapter.kind = \"lora\""
            )
            .replace("train.eval_every = 3", "train.eval_every = 3\n    train.batch = 4\n    train.sequence = 32"),
    ));
    place.ok(&["train", "tiny.toml", "--data", "train.txt", "--set", "run.dir=first"]);
    std::fs::copy(place.path("first/model.tetrad"), place.path("base.tetrad")).unwrap();
    let start = json(&place.ok(&["eval", "base.tetrad", "--text", "val.txt", "--json"]))["loss"].as_f64().unwrap();
    let said_first = sweep(&place, &[]);
    assert!(said_first.status.success(), "{}", said(&said_first));
    assert!(said(&said_first).contains("2 of 2 runs are done\n"), "{}", said(&said_first));
    let found = records(&place);
    for record in &found {
        let last = record["validation"].as_array().unwrap().last().unwrap()[1].as_f64().unwrap();
        assert!((last - start).abs() < 0.5, "starts from the model's {start}: {record}");
        assert!(record["scores"]["other"]["loss"].is_number(), "{record}");
    }
    assert!(place.path("runs/lora/optimizer.lr=0.004/seed=1/adapter.tetrad").exists());
    let log = String::from_utf8(place.read("runs/bytes/optimizer.lr=0.004/seed=1/log.txt")).unwrap();
    assert!(log.contains("from base.tetrad") && log.contains("storage.weights is int4 in the model's file"), "{log}");
    let again = sweep(&place, &[]);
    assert!(again.status.success() && !said(&again).contains("begin"), "{}", said(&again));
    std::fs::remove_dir_all(place.path("runs")).unwrap();
    assert!(place.ok(&["sweep", "sweep.toml", "--status"]).contains("2 of 2 runs are done"), "the records are enough");
    place.ok(&["train", "tiny.toml", "--data", "train.txt", "--set", "run.dir=second", "--set", "run.seed=2"]);
    std::fs::copy(place.path("second/model.tetrad"), place.path("base.tetrad")).unwrap();
    assert!(place.ok(&["sweep", "sweep.toml", "--status"]).contains("0 of 2 runs are done"), "another model");
    place.ok(&["train", "tiny.toml", "--data", "train.txt", "--set", "run.dir=half", "--stop-at", "3"]);
    let text = String::from_utf8(place.read("sweep.toml")).unwrap().replace("\"base.tetrad\"", "\"half\"");
    std::fs::write(place.path("sweep.toml"), text).unwrap();
    let refused = place.fails(&["sweep", "sweep.toml", "--status"]);
    assert!(refused.contains("from: half: is a directory") && refused.contains("at step 3 of 200"), "{refused}");
}
