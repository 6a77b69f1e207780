//! `train`: what it says and writes, and how it goes on.

use super::{TEXT, TINY, json, metrics, names, refused, train, trained, workplace};
use insta::assert_snapshot;
use tetrad::config::Config;

#[test]
fn a_dry_run_prints_a_configuration_that_loads_to_itself() {
    let place = workplace();
    let printed = train(&place, &["--dry-run", "--set", "train.steps=77", "--set", "optimizer.lr=1.5e-3"]);
    std::fs::write(place.path("printed.toml"), &printed).unwrap();
    assert_eq!(place.ok(&["train", "printed.toml", "--dry-run"]), printed);
    assert!(!place.path("run").exists(), "a dry run leaves nothing");
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let config = Config::load(Some(&path("printed.toml")), &[]).unwrap();
    let sets: Vec<String> = TEXT.iter().skip(1).step_by(2).map(ToString::to_string).collect();
    let sets = [&sets[..], &["train.steps=77".into(), "optimizer.lr=1.5e-3".into()]].concat();
    assert_eq!(config, Config::load(Some(&path("tiny.toml")), &sets).unwrap());
    for preset in tetrad::config::PRESETS {
        let printed = place.ok(&["train", preset, "--dry-run"]);
        std::fs::write(place.path("preset.toml"), &printed).unwrap();
        let loaded = Config::load(Some(&path("preset.toml")), &[]).unwrap();
        assert_eq!(Some(loaded), Config::preset(preset));
    }
}

#[test]
fn a_run_leaves_its_configuration_metrics_checkpoints_and_weights() {
    let place = workplace();
    let said = train(
        &place,
        &["--set", "train.steps=20", "--set", "train.eval_every=10", "--set", "train.checkpoint_every=10"],
    );
    assert_eq!(
        names(&place, "run"),
        [
            "config.toml",
            "metrics.jsonl",
            "model.tetrad",
            "step-00000000.tetrad",
            "step-00000010.tetrad",
            "step-00000020.tetrad",
        ]
    );
    let given = [&["train", "tiny.toml"], &TEXT[..]].concat();
    let resolved = place.ok(&[
        &given[..],
        &["--dry-run", "--set", "train.steps=20", "--set", "train.eval_every=10", "--set", "train.checkpoint_every=10"],
    ]
    .concat());
    // The same, its paths absolute: the run can be continued from any folder.
    let here = place.path("").display().to_string();
    let mut wanted = resolved;
    for path in ["train.txt", "val.txt", "runs/cache", "run"] {
        wanted = wanted.replace(&format!("\"{path}\""), &format!("\"{here}{path}\""));
    }
    assert_eq!(String::from_utf8(place.read("run/config.toml")).unwrap(), wanted);
    let lines = metrics(&place, "run");
    let steps: Vec<u64> = lines.iter().filter(|l| l["loss"].is_f64()).map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=20).collect::<Vec<_>>());
    for line in lines.iter().filter(|line| line["loss"].is_f64()) {
        for key in ["lr", "grad_norm", "tokens_per_s", "rss_bytes"] {
            assert!(line[key].as_f64().is_some_and(|x| x > 0.0), "{key} in {line}");
        }
    }
    let validated: Vec<u64> =
        lines.iter().filter(|l| l["val_loss"].is_f64()).map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(validated, [10, 20]);
    for word in ["parameters", "weights", "residue", "state", "gradient", "activations", "per parameter", "threads"] {
        assert!(said.contains(word), "{word} is missing in: {said}");
    }
}

#[test]
fn weights_too_coarse_for_the_rate_end_the_run_with_what_to_change() {
    let place = workplace();
    let sets = ["train.max_unmoved=10", "train.audit_every=5", "optimizer.lr=1e-30", "train.warmup=0"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    assert_snapshot!(refused(&place, &sets), @"tetrad: no weight of the blocks changed in the last 10 steps, though their learning rates were up to 1.0000e-30 (train.max_unmoved = 10): updates are too small for the storage; raise optimizer.lr, or set train.max_unmoved=0 to go on");
    let audited = ["--overwrite", "--set", "train.steps=12", "--set", "train.warmup=2", "--set", "train.audit_every=5"];
    train(&place, &audited);
    let steps: Vec<u64> = metrics(&place, "run")
        .iter()
        .filter(|line| line["moved_bytes"].as_f64().is_some_and(|share| share > 0.0) && line["median_scale"].is_f64())
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [5, 10, 12], "every fifth step and the last");
    place.ok(&["report", "run"]);
    assert!(String::from_utf8(place.read("run/report.html")).unwrap().contains("Updates that change no weight"));
    train(&place, &["--overwrite", "--set", "train.steps=12", "--set", "train.warmup=2", "--set", "optimizer.lr=0"]);
    let diff = place.run(&["diff", "run/step-00000000.tetrad", "run/step-00000012.tetrad", "--json"]).stdout;
    let diff = json(&String::from_utf8(diff).unwrap());
    assert!(diff["tensors"].as_array().unwrap().iter().all(|tensor| tensor["changed"] == 0), "{diff}");
}

#[test]
fn only_the_newest_checkpoints_and_the_milestones_stay() {
    let place = workplace();
    let cadence = ["train.steps=20", "train.checkpoint_every=2", "train.keep=2", "train.milestone_every=8"];
    let sets: Vec<&str> = cadence.iter().flat_map(|set| ["--set", set]).collect();
    train(&place, &sets);
    let steps: Vec<_> = names(&place, "run").into_iter().filter(|name| name.starts_with("step-")).collect();
    assert_eq!(steps, ["step-00000008.tetrad", "step-00000016.tetrad", "step-00000018.tetrad", "step-00000020.tetrad"]);
}

#[test]
fn a_text_sample_appears_at_its_cadence_and_may_start_from_nothing() {
    let place = workplace();
    let sets = ["train.steps=20", "train.sample_every=10", "train.sample_tokens=100", "train.sample_prompt="];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let said = train(&place, &sets);
    assert!(said.contains("--- sample after step 10 ---") && said.contains("--- sample after step 20 ---"), "{said}");
    assert!(!said.contains("no sample"), "{said}");
}

#[test]
fn resuming_a_finished_run_says_so_and_changes_nothing() {
    let place = trained();
    let files = ["run/step-00000030.tetrad", "run/model.tetrad", "run/metrics.jsonl"];
    let before = files.map(|file| place.read(file));
    let said = train(&place, &["--set", "train.steps=30", "--resume"]);
    assert!(said.contains("all 30 steps were done before; nothing was trained"), "{said}");
    assert!(!said.contains("NaN"), "{said}");
    assert!(files.map(|file| place.read(file)) == before);
}

#[test]
fn a_state_that_does_not_fit_the_run_is_refused() {
    let place = trained();
    assert_snapshot!(refused(&place, &["--resume", "--set", "train.steps=20"]), @"tetrad: run/step-00000030.tetrad: is at step 30, and the run ends at step 20; raise train.steps, or resume from an earlier checkpoint");
    assert_snapshot!(refused(&place, &["--resume", "--set", "train.sequence=16"]), @"tetrad: run/step-00000030.tetrad: saved with train.sequence = 32, the configuration has 16; resume with the saved value, or start a new run in another run.dir");
    // Its next --resume would prefer the later one, and retention would delete what it saves.
    assert_snapshot!(refused(&place, &["--resume", "run/step-00000000.tetrad"]), @"tetrad: run/step-00000000.tetrad: is at step 0, but run holds later checkpoints, up to step 30; move them away or choose another folder with --set run.dir=...");
    let elsewhere = ["--resume", "run/step-00000000.tetrad", "--set", "run.dir=other", "--stop-at", "3"];
    train(&place, &elsewhere);
    assert!(place.path("other/step-00000003.tetrad").exists());
}

#[test]
fn overwriting_deletes_the_old_run_only_once_the_new_one_can_start() {
    let place = trained();
    let wrong = ["--overwrite", "--set", "data.train=['none.txt']"];
    refused(&place, &wrong);
    assert!(place.path("run/step-00000030.tetrad").exists(), "deleted for a run that never was");
    train(&place, &["--overwrite", "--stop-at", "4"]);
    assert_eq!(names(&place, "run"), ["config.toml", "metrics.jsonl", "step-00000000.tetrad", "step-00000004.tetrad"]);
    assert_eq!(metrics(&place, "run").len(), 4);
}

#[test]
fn more_memory_than_there_is_is_refused_before_it_is_taken() {
    let place = workplace();
    let said = refused(&place, &["--set", "train.batch=1000000", "--set", "model.intermediate=1000000"]);
    assert!(said.contains("of memory are planned, ") && said.contains(" are free; the largest buffers are "), "{said}");
}

#[test]
fn a_run_beyond_its_budget_is_refused_and_what_it_advises_fits() {
    let place = workplace();
    let said = refused(&place, &["--budget", "4MiB", "--set", "train.batch=64"]);
    assert!(said.contains("of memory are planned, the budget is 4.00 MiB; the largest buffers are "), "{said}");
    let advised = said.trim().rsplit("--set ").next().unwrap();
    assert!(advised.starts_with("train.batch="), "{said}");
    let mut args = vec!["--budget", "4MiB", "--stop-at", "1", "--set", advised];
    if said.contains("run.activation_checkpointing=block") {
        args.extend(["--set", "run.activation_checkpointing=block"]);
    }
    train(&place, &args);
    assert!(refused(&place, &["--budget", "lots"]).contains("a size is a number above 0"));
}

/// A tokenizer with fewer tokens than there are bytes: such a file must open again.
#[test]
fn a_vocabulary_of_a_few_words_trains_evaluates_samples_and_resumes() {
    let place = workplace();
    let words = ["[UNK]", "</s>", "it", "is", "a", "truth", "."];
    let vocab: serde_json::Map<_, _> = words.iter().zip(0..).map(|(word, id)| (word.to_string(), id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
    });
    std::fs::write(place.path("words.json"), tokenizer.to_string()).unwrap();
    std::fs::write(place.path("words.txt"), "it is a truth . ".repeat(200)).unwrap();
    std::fs::write(
        place.path("words.toml"),
        format!("{TINY}\n[data]\ntrain = ['words.txt']\n[tokenizer]\nfile = 'words.json'\n")
            .replace("vocab = 256", "vocab = 7"),
    )
    .unwrap();
    place.ok(&["train", "words.toml", "--set", "train.steps=60", "--stop-at", "40"]);
    place.ok(&["train", "words.toml", "--set", "train.steps=60", "--resume"]);
    let measured = json(&place.ok(&["eval", "run/model.tetrad", "--text", "words.txt", "--json"]));
    assert!(measured["loss"].as_f64().unwrap() < 1.0, "{measured}");
    let text =
        place.ok(&["sample", "run/model.tetrad", "--prompt", "it is", "--temperature", "0", "--max-tokens", "4"]);
    assert!(text.starts_with("it is") && text.contains("truth"), "{text}");
}

#[test]
fn a_run_begins_with_the_weights_of_a_model() {
    let place = trained();
    let loss = |file: &str| {
        let said = place.ok(&["eval", file, "--text", "val.txt", "--json"]);
        super::json(&said)["loss"].as_f64().unwrap()
    };
    // The model and its storage need not be named; step 0 is the model, as its codes say it.
    let more = [&["train", "--from", "run/model.tetrad"], &TEXT[..]].concat();
    let set = ["run.dir=tuned", "train.steps=30", "optimizer.lr=1e-3", "train.batch=4", "train.sequence=32"];
    let set: Vec<&str> = set.into_iter().flat_map(|set| ["--set", set]).collect();
    place.ok(&[&more[..], &set[..]].concat());
    assert_eq!(loss("tuned/step-00000000.tetrad"), loss("run/model.tetrad"));
    assert!(loss("tuned/model.tetrad") < loss("run/model.tetrad"), "thirty more steps lower the loss");
    let said = place.fails(&[&more[..], &set[..], &["--overwrite", "--set", "model.layers=3"]].concat());
    assert!(said.contains("saved with model.layers = 2, the configuration has 3"), "{said}");
    // The same command line continues the run.
    let said = place.ok(&[&more[..], &set[..], &["--resume"]].concat());
    assert!(said.contains("all 30 steps were done before"), "{said}");
}

#[test]
fn the_first_lines_say_what_is_read_of_each_source() {
    let place = workplace();
    let line = |i: usize| {
        let completion = if i == 7 { "long ".repeat(20) } else { "yes".into() };
        serde_json::json!({ "prompt": "Is it? ", "completion": completion }).to_string() + "\n"
    };
    std::fs::write(place.path("a.jsonl"), (0..30).map(line).collect::<String>()).unwrap();
    let sources = "data.source=[{files=['train.txt'],weight=3},{files=['a.jsonl']}]";
    let sets = [sources, "train.steps=100", "data.validation_fraction=0", "data.overlong=skip"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let said = place.ok(&[&["train", "tiny.toml"], &sets[..], &["--stop-at", "1"]].concat());
    let lines: Vec<&str> =
        said.lines().filter(|line| ["source", "sample"].contains(&&line[..6.min(line.len())])).collect();
    assert_snapshot!(lines.join("\n"), @"
    source   train.txt: 40 001 tokens, 75.0 % of the rows, 0.24 epochs
    source   a.jsonl: 290 tokens, 25.0 % of the rows, 10.00 epochs
    samples  29 in 10 rows, 90.6 % filled; 116 target tokens; 1 longer than a row and left out (data.overlong)
    ");
}
