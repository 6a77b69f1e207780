//! Stop and resume give the bytes of never stopping; so does any number of threads.

use crate::harness::process::Workplace;

const LAST: &str = "step-00000200.tetrad";

fn train(place: &Workplace, run: &str, more: &[&str]) -> Vec<u8> {
    let dir = format!("run.dir={run}");
    let args: Vec<&str> = ["train", "tiny.toml", "--set", &dir].into_iter().chain(more.iter().copied()).collect();
    place.ok(&args);
    let last = place.checkpoints(run).pop().unwrap();
    std::fs::read(last).unwrap()
}

#[test]
fn two_hundred_steps_are_a_hundred_stop_resume_and_a_hundred() {
    let place = Workplace::new();
    let whole = train(&place, "whole", &["--set", "run.threads=1"]);
    train(&place, "parts", &["--stop-at", "100"]);
    assert_eq!(place.checkpoints("parts").last().unwrap(), &place.path("parts/step-00000100.tetrad"));
    // Nor does what a machine with less memory chooses make a difference.
    let mut less = vec!["--resume", "--set", "run.threads=3", "--set", "train.micro_batch=1"];
    less.extend([
        "--set",
        "run.activation_checkpointing=block",
        "--set",
        "run.grad_buffer=tensor",
        "--set",
        "offload.optimizer=file",
    ]);
    let parts = train(&place, "parts", &less);
    assert!(place.path("whole").join(LAST).exists());
    assert_eq!(whole.len(), parts.len());
    assert!(whole == parts, "the resumed run ended in other bytes");
    // The metrics are those of one run, too: each step once.
    let lines = String::from_utf8(place.read("parts/metrics.jsonl")).unwrap();
    let losses: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<_> = losses.iter().filter(|l| l["loss"].is_number()).map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=200).collect::<Vec<_>>());
    assert!(losses.iter().any(|line| line["val_loss"].is_number()));
}

#[test]
fn a_schedule_resumes_within_its_decay_and_a_changed_one_is_said() {
    let place = Workplace::new();
    let wsd = ["--set", "train.steps=40", "--set", "train.schedule=wsd", "--set", "train.final_lr=0"];
    let wsd = [&wsd[..], &["--set", "train.decay_steps=20"]].concat();
    let whole = train(&place, "whole", &wsd);
    train(&place, "parts", &[&wsd[..], &["--stop-at", "30"]].concat());
    assert!(whole == train(&place, "parts", &[&wsd[..], &["--resume"]].concat()));
    let last = place.read("parts/metrics.jsonl");
    let rates: Vec<_> = String::from_utf8(last).unwrap().lines().map(crate::json).collect();
    let rate = |step: u64| rates.iter().find(|l| l["step"] == step && l["lr"].is_f64()).unwrap()["lr"].as_f64();
    assert_eq!((rate(20), rate(30), rate(40)), (Some(4e-3), Some(2e-3), Some(0.0)));
    let dir = "run.dir=parts";
    let said =
        place.ok(&[&["train", "tiny.toml", "--set", dir, "--set", "train.steps=45"], &["--resume"][..]].concat());
    assert!(said.contains("rate     0.004 after 20 steps, then a cosine to 4.0000e-4 at step 45\n"), "{said}");
    for line in [
        "changed  train.steps is 45, the saved run had 40\n",
        "changed  train.schedule is \"cosine\", the saved run had \"wsd\"\n",
        "changed  train.decay_steps is its default, the saved run had 20\n",
    ] {
        assert!(said.contains(line), "{line} is missing in {said}");
    }
    assert!(!said.contains("eval_every"), "{said}");
}

/// What was done before counts as it was, and what is told of this process alone is told as that.
#[test]
fn a_resumed_run_counts_what_was_done_before() {
    let place = Workplace::new();
    let whole = place.ok(&["train", "tiny.toml", "--steps", "60", "--stop-at", "20"]);
    assert!(whole.contains("length   7 680 tokens, "), "{whole}");
    let noted = |args: &[&str]| {
        let output = place.run(&[&["train", "tiny.toml", "--resume"], args].concat());
        assert!(output.status.success());
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let [_, err] = noted(&["--steps", "60", "--stop-at", "20"]);
    assert!(err.contains("warning: --stop-at 20: the run goes on from step 20, so nothing is trained"), "{err}");
    // 20 steps of four rows of 32 tokens, then 40 of eight.
    let [out, err] = noted(&["--steps", "60", "--batch", "8", "--stop-at", "70"]);
    assert!(out.contains("length   12 800 tokens, "), "{out}");
    assert!(out.contains("\ncodes that changed since it was resumed: "), "{out}");
    assert!(err.contains("warning: --stop-at 70: the run ends before that, after step 60 (train.steps)"), "{err}");
    let anew = place.ok(&["train", "tiny.toml", "--steps", "60", "--overwrite"]);
    assert!(anew.contains("\ncodes that changed since the start: "), "{anew}");
    // A schedule of any length is begun at once.
    place.ok(&["train", "tiny.toml", "--steps", "100000000000000", "--overwrite", "--stop-at", "1"]);
}

#[test]
fn resuming_keeps_every_kind_of_state() {
    let place = Workplace::new();
    let settings: [&[&str]; 8] = [
        &["--set", "storage.scheme=asymmetric", "--set", "storage.m=int8", "--set", "storage.v=f32"],
        &["--set", "storage.residue=false", "--set", "storage.m=f32", "--set", "storage.v=int8"],
        &["--set", "storage.weights=int4-simulated", "--set", "optimizer.name=adamw"],
        &["--set", "storage.weights=bf16", "--set", "optimizer.name=spam", "--set", "optimizer.reset_interval=15"],
        &["--set", "storage.weights=f32", "--set", "optimizer.name=adam", "--set", "model.tied=true"],
        &["--set", "storage.v=row", "--set", "optimizer.embedding=sparse", "--set", "storage.feedback=true"],
        &["--set", "storage.v=factored", "--set", "storage.m=int8", "--set", "optimizer.name=adamw"],
        &["--set", "storage.feedback=true", "--set", "optimizer.reset_interval=15", "--set", "activations.quant=int4"],
    ];
    for (i, more) in settings.into_iter().enumerate() {
        let more: Vec<&str> = more.iter().copied().chain(["--set", "train.steps=40"]).collect();
        let whole = train(&place, &format!("whole{i}"), &more);
        let parts = format!("parts{i}");
        train(&place, &parts, &[&more[..], &["--stop-at", "23"]].concat());
        assert!(train(&place, &parts, &[&more[..], &["--resume"]].concat()) == whole, "{more:?}");
        place.ok(&["verify", place.checkpoints(&parts).last().unwrap().to_str().unwrap()]);
    }
}

/// Rows of samples beside windows of a text, each source in epochs of its own: the position is still all there is.
#[test]
fn samples_and_mixed_sources_go_on_where_they_stopped() {
    let place = Workplace::new();
    let line = |i: usize| {
        let (prompt, completion) = (format!("{i} and {i} is "), (2 * i).to_string());
        serde_json::json!({ "prompt": prompt, "completion": completion }).to_string() + "\n"
    };
    std::fs::write(place.path("sums.jsonl"), (0..90).map(line).collect::<String>()).unwrap();
    std::fs::write(place.path("text.txt"), "some text, long enough for a few windows. ".repeat(20)).unwrap();
    let sources = "data.source=[{files=['sums.jsonl'],weight=2},{files=['text.txt']}]";
    for (i, more) in
        [&[sources][..], &["data.train=['sums.jsonl']"], &["data.train=['sums.jsonl']", "data.packing=pad"]]
            .into_iter()
            .enumerate()
    {
        let fixed = ["data.validation_fraction=0.1", "train.steps=40", "train.eval_every=10"];
        let sets: Vec<&str> = more.iter().chain(&fixed).flat_map(|set| ["--set", set]).collect();
        let whole = train(&place, &format!("whole{i}"), &[&sets[..], &["--set", "run.threads=1"]].concat());
        let parts = format!("parts{i}");
        train(&place, &parts, &[&sets[..], &["--stop-at", "23"]].concat());
        assert!(train(&place, &parts, &[&sets[..], &["--resume"]].concat()) == whole, "{more:?}");
        // Other weights, or other rows, would make the position another one.
        let dir = format!("run.dir={parts}");
        let other =
            [&["train", "tiny.toml", "--resume", "--set", &dir][..], &sets, &["--set", "data.overlong=skip"]].concat();
        assert!(place.fails(&other).contains("training text"), "{more:?}");
    }
}

#[test]
fn a_finished_run_changes_only_if_it_goes_on_and_then_has_no_finished_weights() {
    let place = Workplace::new();
    let short = ["--set", "train.warmup=2", "--set", "train.steps=6"];
    train(&place, "run", &short);
    let files = ["config.toml", "model.tetrad", "metrics.jsonl"].map(|name| format!("run/{name}"));
    let before = files.clone().map(|file| place.read(&file));
    let args = ["train", "tiny.toml", "--resume", "--set", "train.warmup=2"];
    let said = place.ok(&[&args[..], &["--set", "train.steps=6", "--set", "optimizer.lr=0.001"]].concat());
    assert!(said.contains("nothing was trained"), "{said}");
    assert!(files.map(|file| place.read(&file)) == before, "a run that trained nothing was written to");
    let longer = [&args[..], &["--set", "train.steps=12"]].concat();
    let output = place.run(&[&longer[..], &["--stop-at", "9"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("goes on from step 6"), "{said}");
    assert!(place.read("run/model-until-00000006.tetrad") == before[1]);
    assert!(!place.path("run/model.tetrad").exists(), "weights of step 6 are not those of a run of 12");
    place.ok(&longer);
    assert!(place.read("run/model.tetrad") != before[1]);
    place.ok(&[&["train", "tiny.toml", "--overwrite"], &short[..]].concat());
    assert!(!place.path("run/model-until-00000006.tetrad").exists());
}

#[test]
fn a_resumed_run_must_be_the_same_run() {
    let place = Workplace::new();
    train(&place, "run", &["--stop-at", "5"]);
    let refused = |set: &str| place.fails(&["train", "tiny.toml", "--resume", "--set", set]);
    assert!(refused("storage.m=int8").contains("storage.m = \"int4\", the configuration has \"int8\""));
    assert!(refused("model.hidden=48").contains("model.hidden"));
    // Keys that a file leaves out, as they are by default, are keys all the same.
    assert!(refused("model.qk_norm=true").contains("model.qk_norm = its default, the configuration has true"));
    assert!(refused("model.qkv_bias=true").contains("model.qkv_bias"));
    let scaled = ["--set", "model.rope_scaling=linear", "--set", "model.rope_factor=4"];
    let said = place.fails(&[&["train", "tiny.toml", "--resume"], &scaled[..]].concat());
    assert!(said.contains("model.rope_"), "{said}");
    assert!(refused("activations.compute=bf16").contains("activations.compute"));
    assert!(refused("run.seed=8").contains("run.seed = 7"));
    assert!(refused("optimizer.name=adamw").contains("optimizer.name"));
    std::fs::write(place.path("other.txt"), "some other text, long enough for a few windows. ".repeat(40)).unwrap();
    let text = refused("data.train=['other.txt']");
    assert!(text.contains("training text") && text.contains("data.train or data.source, data.validation"), "{text}");
    assert!(refused("run.seed=8").contains("resume with the saved value, or start a new run in another run.dir"));
    // A folder with a run in it is not overwritten by accident.
    let held = place.fails(&["train", "tiny.toml"]);
    assert!(held.contains("holds a run already") && held.contains("--resume"), "{held}");
    // The deployable weights cannot be trained further: residue and state are gone.
    train(&place, "run", &["--overwrite", "--set", "train.steps=6", "--set", "train.warmup=2"]);
    let model = place.path("run/model.tetrad");
    let message = place.fails(&["train", "tiny.toml", "--resume", model.to_str().unwrap()]);
    assert!(message.contains("has no m plane") && message.contains("not resumed"), "{message}");
}
