//! The ladder of `docs/quality.md`, at a size that takes seconds: the cut of the texts, every arm, the comparison.

#[path = "../../benches/quality/texts.rs"]
mod texts;

use super::harness::process::Workplace;
use super::json;
use std::path::{Path, PathBuf};
use texts::{Cut, prepare};
use toml::{Table, Value};

const FILES: [&str; 5] = ["s", "s20", "s-long", "m", "l"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/quality").join(name).with_extension("toml")
}

/// A folder of four authors, of whom two are long enough to be held out.
fn authors(place: &Workplace) -> PathBuf {
    let corpus = include_str!("../../assets/corpus/austen.txt");
    let folder = place.path("authors");
    std::fs::create_dir(&folder).unwrap();
    for (name, from, to) in [("short", 0, 3000), ("a", 3000, 20_000), ("b", 20_000, 29_000), ("c", 30_000, 38_000)] {
        std::fs::write(folder.join(name).with_extension("txt"), corpus[from..to].replace('\n', "\r\n")).unwrap();
    }
    std::fs::write(folder.join("notes.md"), "no text").unwrap();
    folder
}

fn cut() -> Cut {
    Cut { held_out: 6000, vocabulary: 300, ..Cut::default() }
}

#[test]
fn whole_texts_are_held_out_and_nothing_is_in_two_places() {
    let place = Workplace::new();
    let (folder, out) = (authors(&place), place.path("texts"));
    let list = json(&prepare(&folder, &out, &cut()).unwrap());
    let roles: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|text| (text["name"].as_str().unwrap(), text["role"].as_str().unwrap()))
        .collect();
    let expected =
        [("a", "train"), ("b", "validation"), ("c", "final"), ("short", "train"), ("tokenizer.json", "tokenizer")];
    assert_eq!(roles, expected);
    for (name, role) in &roles[..4] {
        let text = std::fs::read_to_string(out.join(role).join(name).with_extension("txt")).unwrap();
        assert!(text.ends_with('\n') && !text.contains('\r'), "{name}");
        for other in ["train", "validation", "final"].iter().filter(|other| *other != role) {
            assert!(!out.join(other).join(name).with_extension("txt").exists(), "{name} is in {other} too");
        }
    }
    assert_eq!(prepare(&folder, &place.path("again"), &cut()).unwrap(), prepare(&folder, &out, &cut()).unwrap());
    let named = Cut { last: Some("a".into()), validation: Some("c".into()), ..cut() };
    let list = prepare(&folder, &place.path("named"), &named).unwrap();
    assert!(list.contains("\"a\", \"role\": \"final\"") && list.contains("\"b\", \"role\": \"train\""), "{list}");
    let short = Cut { last: Some("short".into()), ..cut() };
    assert!(prepare(&folder, &out, &short).unwrap_err().contains("short: has 3"));
    let none = Cut { last: Some("none".into()), ..cut() };
    assert!(prepare(&folder, &out, &none).unwrap_err().contains("none: no text of that name"));
    assert!(
        prepare(&folder, &out, &Cut { held_out: 1 << 20, ..cut() }).unwrap_err().contains("no text of 1048576 bytes")
    );
}

#[test]
fn every_run_of_the_ladder_is_a_valid_configuration() {
    let place = Workplace::new();
    let runs = FILES.map(|name| {
        let status = place.ok(&["sweep", file(name).to_str().unwrap(), "--status"]);
        let last = status.trim_end().rsplit('\n').next().unwrap().to_owned();
        last.split(" runs are done").next().unwrap().split(" of ").nth(1).unwrap().parse::<usize>().unwrap()
    });
    // Arms, lengths, rates and seeds; most of them will not be needed, since only the best rate has all seeds.
    // At S, five arms have a sixth rate; of the longer runs one has two lengths and four rates, another four rates.
    assert_eq!(runs, [(13 * 5 + 5) * 5, (2 * 4 + 4 + 5 * 3) * 5, 3 * 20, 5 * 2 * 25, 5 * 15]);
}

/// Every key of `[set]` and every arm as it stands; the model, the lengths and the ranges are shrunk.
fn smoke(place: &Workplace) -> Table {
    let mut sweep: Table = std::fs::read_to_string(file("s")).unwrap().parse().unwrap();
    let shrunk: Table = r#"
        base = "tiny.toml"
        dir = "runs"
        records = "records.jsonl"
        seeds = [1, 2]
        vary.optimizer.lr = [0.004]
        score.final = "texts/final/*.txt"
    "#
    .parse()
    .unwrap();
    sweep.extend(shrunk);
    sweep.remove("tune");
    let arms = sweep["arm"].as_table_mut().unwrap();
    arms.iter_mut().for_each(|(_, arm)| drop(arm.as_table_mut().unwrap().remove("vary")));
    let set = sweep["set"].as_table_mut().unwrap();
    let train: Table = "steps = 4\nwarmup = 1".parse().unwrap();
    set["train"].as_table_mut().unwrap().extend(train);
    let data: Table = "train = ['texts/train/*.txt']\nvalidation = ['texts/validation/*.txt']".parse().unwrap();
    set.insert("data".into(), Value::Table(data));
    std::fs::write(place.path("ladder.toml"), sweep.to_string()).unwrap();
    sweep
}

#[test]
fn every_arm_is_trained_scored_and_compared() {
    let place = Workplace::new();
    prepare(&authors(&place), &place.path("texts"), &cut()).unwrap();
    let arms = smoke(&place)["arm"].as_table().unwrap().len();
    let trained = place.run(&["sweep", "ladder.toml", "--jobs", "2"]);
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stdout));
    let args = ["compare", "ladder.toml", "--baseline", "f32-adamw", "--json"];
    let found = json(&place.ok(&args));
    assert_eq!(found["notes"], json("[]"));
    assert_eq!((found["groups"].as_array().unwrap().len(), found["pairs"].as_array().unwrap().len()), (arms, arms - 1));
    for group in found["groups"].as_array().unwrap() {
        for run in group["rates"][0]["runs"].as_array().unwrap() {
            let (loss, score) = (&run["loss"], &run["record"]["scores"]["final"]["loss"]);
            assert!(loss.as_f64().is_some_and(|loss| loss < 7.0) && score.is_f64(), "{run}");
        }
    }
    // The records alone say the same.
    std::fs::remove_dir_all(place.path("runs")).unwrap();
    assert_eq!(json(&place.ok(&args)), found);
}
