//! Fine-tuning as a newcomer types it: little is said, the rest follows from the model, the rule and the text.

use super::{json, metrics, trained};
use crate::harness::process::Workplace;

/// Sixty short questions with their answers.
fn with_samples() -> Workplace {
    let place = trained();
    let line =
        |i: usize| serde_json::json!({ "prompt": format!("{i}? "), "completion": "aye, matey" }).to_string() + "\n";
    std::fs::write(place.path("pirate.jsonl"), (0..60).map(line).collect::<String>()).unwrap();
    place
}

fn said(place: &Workplace, args: &[&str]) -> [String; 2] {
    let output = place.run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
}

fn record(place: &Workplace, run: &str) -> toml::Table {
    String::from_utf8(place.read(&format!("{run}/config.toml"))).unwrap().parse().unwrap()
}

#[test]
fn a_model_and_a_file_are_enough() {
    let place = with_samples();
    let command = ["train", "--from", "run/model.tetrad", "--data", "pirate.jsonl"];
    let [out, err] = said(&place, &command);
    // 57 samples of 14 tokens in rows of 64, the model's context: four to a row.
    assert!(
        out.contains("3.00 epochs: each row is seen 3 times") || out.contains("each row is seen 3.1 times"),
        "{out}"
    );
    assert!(!err.contains("warning"), "{err}");
    let record = record(&place, "runs/run-pirate");
    let train = |key: &str| record["train"][key].as_integer().unwrap();
    assert_eq!((train("sequence"), train("batch")), (64, 1));
    let rows = 57 / 4 + 1;
    assert!((3 * rows - 3..=3 * rows + 3).contains(&train("steps")), "{record}");
    assert_eq!(train("warmup"), (train("steps") as f64 / 10.0).round() as i64);
    assert_eq!(record["optimizer"]["lr"].as_float(), Some(2e-4));
    assert!(!record["train"].as_table().unwrap().contains_key("epochs"), "what was settled is written");
    let last = metrics(&place, "runs/run-pirate").into_iter().rev().find(|line| line["loss"].is_number()).unwrap();
    assert_eq!(last["step"].as_i64(), Some(train("steps")));
    // The same words continue the run, and its record alone does.
    let again = place.ok(&[&command[..], &["--resume"]].concat());
    assert!(again.contains("steps were done before"), "{again}");
    place.ok(&["train", "runs/run-pirate", "--resume"]);
}

#[test]
fn the_length_is_given_in_one_of_three_ways_and_the_later_word_counts() {
    let place = with_samples();
    let base = ["train", "--from", "run/model.tetrad", "--data", "train.txt", "--overwrite"];
    let steps = |more: &[&str]| {
        place.ok(&[&base[..], more, &["--stop-at", "1"]].concat());
        record(&place, "runs/run-train")["train"]["steps"].as_integer().unwrap()
    };
    assert_eq!(steps(&["--steps", "7", "--batch", "2", "--lr", "1e-3"]), 7);
    // 38 001 bytes in rows of 64 are 593, or one less where they begin later; four to a step.
    let half = steps(&["--epochs", "0.5", "--batch", "4"]);
    assert!([74, 75].contains(&half), "{half} steps");
    assert_eq!(steps(&["--set", "train.tokens=2560", "--batch", "4"]), 10);
    std::fs::write(place.path("long.toml"), "[train]\nsteps = 1000\nwarmup_share = 0.5\n").unwrap();
    assert_eq!(steps(&["long.toml", "--epochs", "0.5", "--batch", "4"]), half);
    let warmup = record(&place, "runs/run-train")["train"]["warmup"].as_integer();
    assert_eq!(warmup, Some((half as f64 / 2.0).round() as i64));
    let refused = place.fails(&[&base[..], &["--steps", "7", "--epochs", "2"]].concat());
    assert!(
        refused.contains("train.epochs = 2.0 (--epochs): says how long the run is, and so does another"),
        "{refused}"
    );
    let refused = place.fails(&[&base[..], &["--set", "train.warmup=3", "--set", "train.warmup_share=0.1"]].concat());
    assert!(refused.contains("train.warmup_share") && refused.contains("keep one of them"), "{refused}");
}

#[test]
fn every_rule_has_its_own_rate() {
    let place = with_samples();
    let refused = place.fails(&["train", "pirate.jsonl", "--from", "run/model.tetrad"]);
    assert!(refused.contains("is text to train on, no configuration; name it with --data pirate.jsonl"), "{refused}");
    let rate = |more: &[&str]| {
        let text = place.ok(&[&["train", "--from", "run/model.tetrad", "--dry-run"], more].concat());
        text.parse::<toml::Table>().unwrap()["optimizer"]["lr"].as_float().unwrap()
    };
    assert_eq!(rate(&[]), 2e-4);
    let lion = tetrad::optim::OptimizerConfig::of(tetrad::optim::Rule::Lion).lr;
    assert_eq!(rate(&["--set", "optimizer.name=lion"]), lion / 20.0);
    assert_eq!(rate(&["--set", "optimizer.name=lion", "--lr", "1e-3"]), 1e-3);
    assert_eq!(rate(&["--set", "optimizer.name=adamw"]), 2e-4);
    // A preset is a base of its own.
    let text = place.ok(&["train", "quickstart", "--from", "run/model.tetrad", "--dry-run"]);
    assert_eq!(text.parse::<toml::Table>().unwrap()["optimizer"]["lr"].as_float(), Some(4e-3));
}

#[test]
fn what_is_probably_a_mistake_is_said_before_the_first_step() {
    let place = with_samples();
    let from = ["train", "--from", "run/model.tetrad", "--overwrite", "--stop-at", "1"];
    let [_, err] = said(&place, &[&from[..], &["--data", "pirate.jsonl", "--lr", "4e-3", "--batch", "64"]].concat());
    assert!(err.contains("warning: optimizer.lr = 0.004 is 20 times what is usual for fine-tuning"), "{err}");
    assert!(err.contains("warning: train.batch = 64 is larger than the data set"), "{err}");
    let [_, err] = said(&place, &[&from[..], &["--steps", "2"]].concat());
    assert!(err.contains("no text was named"), "{err}");
    let vocab = ["train", "tiny.toml", "--data", "train.txt", "--stop-at", "1", "--set", "model.vocab=1000"];
    let [_, err] = said(&place, &[&vocab[..], &["--overwrite"]].concat());
    assert!(err.contains("no text can reach 744 of the 1 000 tokens"), "{err}");
    let [_, err] = said(&place, &["train", "tiny.toml", "--data", "train.txt", "--stop-at", "1", "--overwrite"]);
    assert!(!err.contains("warning"), "{err}");
}

#[test]
fn a_list_of_texts_does_not_swallow_the_model() {
    let place = trained();
    let before = json(&place.ok(&["eval", "run/model.tetrad", "--text", "val.txt", "--json"]));
    let after = json(&place.ok(&["eval", "--json", "--text", "val.txt", "run/model.tetrad"]));
    assert_eq!(before["loss"], after["loss"]);
    assert!(place.fails(&["eval", "--text", "val.txt"]).contains("no model is named"));
}

#[test]
fn matrices_can_be_tuned_as_bytes() {
    let place = with_samples();
    let from = ["train", "--from", "run/model.tetrad", "--data", "pirate.jsonl", "--set", "storage.weights=int8"];
    let [out, err] = said(&place, &from);
    assert!(err.contains("note: storage.weights is int4 in the model's file and int8 here"), "{err}");
    assert!(out.contains("codes    ") && out.contains("codes that changed since the start: "), "{out}");
    let lines = metrics(&place, "runs/run-pirate");
    let changed = lines.iter().rev().find_map(|line| line["changed_codes"].as_f64()).unwrap();
    assert!(changed > 0.05, "{changed} of the bytes changed");
    let loss =
        |file: &str| json(&place.ok(&["eval", file, "--text", "pirate.jsonl", "--json"]))["loss"].as_f64().unwrap();
    assert!(loss("runs/run-pirate/model.tetrad") < loss("run/model.tetrad") - 0.1);
    let exported = place.ok(&["export", "runs/run-pirate/model.tetrad", "-o", "tuned.gguf"]);
    // Its rows are shorter than a block of Q8_0, so GGUF has their values as f16.
    assert!(exported.contains("16 F16") && !exported.contains(" Q4_"), "{exported}");
    let dumped = place.ok(&["dump", "runs/run-pirate/model.tetrad"]);
    assert!(dumped.contains("int8"), "{dumped}");
}

/// A model with offsets, as Q4_1 has them, is tuned as bytes, which have none, or comes in as bytes at once.
#[test]
fn a_model_of_any_scheme_can_be_tuned_as_bytes() {
    let place = with_samples();
    let source = format!("{}/fixtures/convert/q4_1.gguf", env!("CARGO_MANIFEST_DIR"));
    place.ok(&["import", &source, "-o", "packed.tetrad"]);
    let bytes = place.ok(&["import", &source, "-o", "bytes.tetrad", "--weights", "int8"]);
    assert!(bytes.contains("1 tensors kept bit for bit or code for code, 14 rounded"), "{bytes}");
    let train = |model: &str, more: &[&str]| {
        let base = ["train", "--from", model, "--data", "pirate.jsonl", "--steps", "2", "--overwrite"];
        let [_, err] = said(&place, &[&base[..], more].concat());
        err
    };
    let err = train("packed.tetrad", &["--set", "storage.weights=int8"]);
    assert!(err.contains("storage.scheme is asymmetric in the model's file and symmetric here"), "{err}");
    assert_eq!(record(&place, "runs/packed-pirate")["storage"]["scheme"].as_str(), Some("symmetric"));
    assert!(!train("bytes.tetrad", &[]).contains("note:"), "the file has bytes already");
    assert_eq!(record(&place, "runs/bytes-pirate")["storage"]["weights"].as_str(), Some("int8"));
    let asked = ["--set", "storage.weights=int8", "--set", "storage.scheme=asymmetric"];
    let refused = place.fails(&[&["train", "--from", "packed.tetrad", "--data", "pirate.jsonl"], &asked[..]].concat());
    assert!(
        refused.contains("storage.scheme = \"asymmetric\" (--set): only four-bit integers have offsets"),
        "{refused}"
    );
}
