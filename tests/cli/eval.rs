//! `eval`: the same figures as training's own validation, on any text.

use super::{json, metrics, trained, workplace};
use crate::harness::process::Workplace;
use insta::assert_snapshot;
use serde_json::Value;

fn eval(place: &Workplace, more: &[&str]) -> Value {
    json(&place.ok(&[&["eval", "run/model.tetrad", "--json", "--text"], more].concat()))
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn the_loss_is_that_of_the_training_s_validation() {
    let place = trained();
    let line = metrics(&place, "run").into_iter().find(|line| line["val_loss"].is_f64()).unwrap();
    let measured = eval(&place, &["val.txt"]);
    let (loss, validated) = (number(&measured, "loss"), number(&line, "val_loss"));
    // Other batches: the same float32 products, summed over windows in another order.
    assert!((loss - validated).abs() < 1e-6 * validated, "{loss}, but training measured {validated}");
    assert!((number(&measured, "perplexity") / loss.exp() - 1.0).abs() < 1e-12);
    // Bytes: one token is one byte.
    assert!((number(&measured, "bits_per_byte") - loss / 2f64.ln()).abs() < 1e-12);
    assert!((number(&measured, "bits_per_byte") - number(&line, "val_bits_per_byte")).abs() < 1e-5);
    // 3001 tokens are 93 windows of 32 and their targets.
    assert_eq!((measured["tokens"].as_u64(), measured["sequence"].as_u64()), (Some(93 * 32), Some(32)));
    let full = json(&place.ok(&["eval", "run/step-00000030.tetrad", "--text", "val.txt", "--json", "--threads", "1"]));
    assert_eq!(full["loss"], measured["loss"], "a full state and its weights alone are one model");
    let shown = place.ok(&["eval", "run/model.tetrad", "--text", "val.txt"]);
    assert!(shown.contains(&format!("loss           {loss:.4} nats per token")), "{shown}");
    assert!(shown.contains("2 976 of 3 001 tokens predicted, in sequences of 32"), "{shown}");
}

#[test]
fn lines_of_json_are_documents_and_several_files_are_one_text() {
    let place = trained();
    let text = String::from_utf8(place.read("val.txt")).unwrap();
    let line = |text: &str| serde_json::json!({ "text": text, "source": 7 }).to_string() + "\n";
    std::fs::write(place.path("one.jsonl"), line(&text)).unwrap();
    let (first, second) = text.split_at(text.find('\n').unwrap() + 1);
    std::fs::write(place.path("two.jsonl"), line(first) + &line(second)).unwrap();
    std::fs::write(place.path("part-1.txt"), first).unwrap();
    std::fs::write(place.path("part-2.txt"), second).unwrap();
    let whole = eval(&place, &["val.txt"]);
    for texts in [&["one.jsonl"][..], &["two.jsonl"], &["part-*.txt"], &["part-1.txt", "part-2.txt"]] {
        assert_eq!(eval(&place, texts)["loss"], whole["loss"], "{texts:?}");
    }
}

#[test]
fn a_text_of_any_length_is_measured() {
    let place = trained();
    std::fs::write(place.path("short.txt"), "It is a truth\n").unwrap();
    let short = eval(&place, &["short.txt"]);
    assert_eq!((short["tokens"].as_u64(), short["sequence"].as_u64()), (Some(13), Some(13)));
    std::fs::write(place.path("least.txt"), "a\n").unwrap();
    assert_eq!(eval(&place, &["least.txt"])["tokens"], 1);
    let longest = eval(&place, &["val.txt", "--sequence", "64"]);
    assert_eq!(longest["sequence"], 64);
    let few = eval(&place, &["val.txt", "--sequences", "3"]);
    assert_eq!(few["tokens"], 96);
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_numbers() {
    let place = trained();
    let refused = |more: &[&str]| place.fails(&[&["eval", "run/model.tetrad", "--text"], more].concat());
    std::fs::write(place.path("one.txt"), "\n").unwrap();
    std::fs::write(place.path("empty.txt"), "").unwrap();
    assert_snapshot!(refused(&["val.txt", "--sequence", "65"]), @"tetrad: --sequence 65: the model's context is 64 tokens, the longest possible");
    assert_snapshot!(refused(&["val.txt", "--sequence", "0"]), @"tetrad: --sequence 0: at least 1 token");
    assert_snapshot!(refused(&["one.txt"]), @"tetrad: one.txt: 1 token in total; at least 2 are needed, the second to be predicted from the first; give more with --text");
    assert_snapshot!(refused(&["one.txt", "--sequence", "2"]), @"tetrad: --sequence 2: the text has 1 token, and one more than a sequence is needed");
    assert_snapshot!(refused(&["empty.txt"]), @"tetrad: empty.txt: is empty; remove it from the list");
    std::fs::write(place.path("head.csv"), "text\n").unwrap();
    assert_snapshot!(refused(&["head.csv"]), @"tetrad: head.csv: has a first line that names columns, and no rows; remove it from the list");
    assert_snapshot!(refused(&["val.txt", "head.csv"]), @"tetrad: head.csv: has a first line that names columns, and no rows; remove it from the list");
    assert_snapshot!(refused(&["none.txt"]), @"tetrad: none.txt: matches no file; check the name, relative to the current folder");
    assert_snapshot!(refused(&["run"]), @"tetrad: run: is a folder; name its files, such as run/*.txt");
    assert_snapshot!(refused(&["tiny.toml"]), @"tetrad: tiny.toml: unsupported file type; expected .txt, .jsonl, .json, .csv, .tsv (each also compressed, .zst), .parquet, or llm.c's .bin");
    let message = refused(&["val.txt", "--cache", "tiny.toml"]);
    assert!(
        message.starts_with("tetrad: tiny.toml/")
            && message.ends_with(
                "name another folder with --cache
"
            ),
        "{message}"
    );
    assert_snapshot!(refused(&["val.txt", "--threads", "5000"]), @"tetrad: 5000 threads: at most 4096 are possible, 0 means one per processor");
}

/// Of samples only what is learned counts, each seen alone: the same figure as training's own.
#[test]
fn samples_are_measured_as_they_are_validated() {
    let place = workplace();
    let line = |i: usize| {
        let (prompt, completion) = (format!("{i} and {i} is "), (2 * i).to_string());
        serde_json::json!({ "prompt": prompt, "completion": completion }).to_string() + "\n"
    };
    std::fs::write(place.path("train.jsonl"), (0..60).map(line).collect::<String>()).unwrap();
    std::fs::write(place.path("val.jsonl"), (60..90).map(line).collect::<String>()).unwrap();
    let sets = ["data.train=['train.jsonl']", "data.validation=['val.jsonl']", "train.steps=30"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let said = place.ok(&[&["train", "tiny.toml", "--set", "train.eval_sequences=0"], &sets[..]].concat());
    assert!(said.contains("samples  60 in"), "{said}");
    let line = metrics(&place, "run").into_iter().find(|line| line["val_loss"].is_f64()).unwrap();
    let measured = eval(&place, &["val.jsonl"]);
    let (loss, validated) = (number(&measured, "loss"), number(&line, "val_loss"));
    assert!((loss - validated).abs() < 1e-6 * validated, "{loss}, but training measured {validated}");
    // 30 sums of three digits and the end of their lines.
    assert_eq!(measured["tokens"].as_u64(), Some(30 * 4));
}

#[test]
fn tokens_of_unknown_text_have_no_bits_per_byte() {
    let place = trained();
    let mut shard = vec![0; 1024];
    for (i, number) in [20240520u32, 1, 100].into_iter().enumerate() {
        shard[4 * i..][..4].copy_from_slice(&number.to_le_bytes());
    }
    shard.extend((0..100).flat_map(|i: u16| (97 + i % 20).to_le_bytes()));
    std::fs::write(place.path("a.bin"), shard).unwrap();
    let measured = eval(&place, &["a.bin"]);
    assert!(measured["bits_per_byte"].is_null() && number(&measured, "loss") > 0.0, "{measured}");
    let shown = place.ok(&["eval", "run/model.tetrad", "--text", "a.bin"]);
    assert!(shown.contains("perplexity") && !shown.contains("bits per byte"), "{shown}");
}
