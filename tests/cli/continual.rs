//! `continual`: tasks one after the other, every method, killed and resumed, and its file in other commands.

use super::{TINY, json, names};
use crate::harness::process::Workplace;
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tetrad::checkpoint::{Adapter, Checkpoint};

const TASKS: &str = r#"
[adapter]
base = "base/model.tetrad"
kind = "lora"
rank = 4
alpha = 8.0

[optimizer]
name = "adam"
lr = 0.005
weight_decay = 0.0

[train]
batch = 4
sequence = 32
steps = 24
warmup = 4
schedule = "constant"
eval_sequences = 6
checkpoint_every = 8
sample_tokens = 0

[continual]
base = ["base-held.txt"]
ensemble = "posterior"
freeze = 2

[[continual.task]]
name = "novel"
train = ["novel.txt"]
validation = ["novel-held.txt"]

[[continual.task]]
name = "digits"
train = ["digits.txt"]
steps = 20

[[continual.task]]
name = "rust"
train = ["rust.txt"]
"#;

/// Three texts unlike each other, and a base that was trained on a fourth.
fn workplace() -> Workplace {
    let place = Workplace::new();
    let corpus = include_str!("../../assets/corpus/austen.txt");
    let write = |name: &str, text: &str| std::fs::write(place.path(name), text).unwrap();
    write("base.txt", &corpus[..30_000]);
    write("base-held.txt", &corpus[30_000..32_000]);
    write("novel.txt", &corpus[100_000..115_000].to_uppercase());
    write("novel-held.txt", &corpus[120_000..122_000].to_uppercase());
    let digits: Vec<String> = (0..4000).map(|i| (i * i % 9973).to_string()).collect();
    write("digits.txt", &digits.join(" "));
    write("rust.txt", include_str!("config_errors.rs"));
    write("tasks.toml", TASKS);
    write("tiny.toml", &TINY.replace("context = 64", "context = 32"));
    let text = ["--set", "data.train=['base.txt']", "--set", "run.dir=base", "--set", "train.steps=60"];
    place.ok(&[&["train", "tiny.toml"], &text[..]].concat());
    place
}

fn results(place: &Workplace, dir: &str) -> Value {
    json(&String::from_utf8(place.read(&format!("{dir}/continual.json"))).unwrap())
}

/// The result of a method by one of its ways to predict.
fn of<'a>(results: &'a Value, method: &str, by: &str) -> &'a Value {
    let all = results["results"].as_array().unwrap();
    let found = all.iter().find(|one| one["method"] == method && one["by"] == by);
    found.unwrap_or_else(|| panic!("{method} by {by:?} is not among {all:#?}"))
}

#[test]
fn every_method_learns_the_tasks_and_is_measured() {
    let place = workplace();
    let base = place.read("base/model.tetrad");
    let methods = "continual.methods=['ema', 'mean', 'replay', 'joint', 'o-lora', 'full']";
    let said = place.ok(&["continual", "tasks.toml", "--set", methods, "--set", "run.dir=runs/a"]);
    assert!(said.contains("=== ema: task 2 of 3, digits ===") && said.contains("of joint"), "{said}");
    assert!(place.read("base/model.tetrad") == base, "the base was written to");
    let found = results(&place, "runs/a");
    assert_eq!(found["tasks"], serde_json::json!(["novel", "digits", "rust"]));
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    let online = of(&found, "ema", "online");
    // Every task is learned by whoever learns it, and by no means by all who wait.
    for (j, row) in online["matrix"].as_array().unwrap().iter().enumerate() {
        assert!(number(&row[j]) < number(&found["base"][j]), "task {j}: {row}");
    }
    // Both ways to accumulate share their course of learning.
    assert_eq!(online["matrix"][0], of(&found, "mean", "online")["matrix"][0]);
    assert_eq!(online["matrix"], of(&found, "mean", "online")["matrix"]);
    assert_ne!(of(&found, "ema", "offline")["matrix"], of(&found, "mean", "offline")["matrix"]);
    // After the first task there is one module.
    assert_eq!(of(&found, "ema", "offline")["matrix"][0], online["matrix"][0]);
    assert_eq!(of(&found, "joint", "")["matrix"].as_array().unwrap().len(), 1);
    assert_eq!(number(&of(&found, "joint", "")["share_of_joint"]), 1.0);
    assert_eq!(number(&online["share_of_joint"]), 0.0);
    for (method, by) in [("ema", "posterior"), ("mean", "max"), ("replay", ""), ("o-lora", ""), ("full", "")] {
        let one = of(&found, method, by);
        assert_eq!(one["matrix"].as_array().unwrap().len(), 3, "{method}");
        assert!(number(&one["last"]) < 5.6 && one["forgetting"].is_number() && one["backward"].is_number());
        assert_eq!(one["base_text_lost"].as_array().unwrap().len(), 3);
        assert_eq!(one["gain_kept"].as_array().unwrap().len(), 3);
    }
    // O-LoRA keeps the pairs of earlier tasks as they were: one adapter of three times the rank.
    let pairs = ["1-novel", "2-digits", "3-rust"].map(|task| {
        let file = place.path(&format!("runs/a/o-lora/{task}/adapter.tetrad"));
        Adapter::of(&Checkpoint::open_sound(&file).unwrap()).unwrap()
    });
    for (before, after) in pairs.iter().zip(&pairs[1..]) {
        assert!(before.tensors.len() == after.tensors.len());
        for ((spec, before), (_, after)) in before.tensors.iter().zip(&after.tensors) {
            assert_eq!(*before, after[..before.len()], "{}", spec.kind.name());
            assert!(after[before.len()..].iter().any(|&x| x != 0.0), "{}", spec.kind.name());
        }
    }
    assert_eq!(pairs[2].meta.adapter.as_ref().map(|adapter| (adapter.rank, adapter.alpha)), Some((12, 24.0)));
    // What the table says of the file is what the file says to `eval`.
    let adapter = "runs/a/ema/3-rust/adapter.tetrad";
    let eval = |more: &[&str]| -> Value {
        let text = ["eval", "base/model.tetrad", "--text", "novel-held.txt", "--json", "--sequence", "32"];
        json(&place.ok(&[&text, &["--sequences", "6", "--adapter", adapter][..], more].concat()))
    };
    let both = eval(&[]);
    assert_eq!(both["by"], "posterior");
    assert_eq!(both["loss"], both["losses"]["posterior"]);
    let last = &of(&found, "ema", "posterior")["matrix"][2][0];
    assert!((number(&both["loss"]) - number(last)).abs() < 1e-9, "{both} and {last}");
    for expert in ["online", "offline"] {
        let alone = number(&eval(&["--expert", expert])["loss"]);
        let told = number(&both["losses"][expert]);
        assert!((alone - told).abs() < 1e-4, "{expert}: {alone} alone and {told} beside the other");
    }
    let sample = ["sample", "base/model.tetrad", "--adapter", adapter, "--prompt", "NEITHER ", "--max-tokens", "6"];
    place.ok(&sample);
    place.ok(&[&sample[..], &["--expert", "offline"]].concat());
    // One module of it is an adapter as any other.
    let refused = place.fails(&["export", adapter, "-o", "peft"]);
    assert!(refused.contains("has an online and an offline module") && refused.contains("--expert"), "{refused}");
    place.ok(&["export", adapter, "--expert", "offline", "-o", "peft"]);
    place.ok(&["import", "peft", "--base", "base/model.tetrad", "-o", "offline.tetrad"]);
    let text = ["eval", "base/model.tetrad", "--text", "novel-held.txt", "--json", "--sequence", "32"];
    let imported = json(&place.ok(&[&text, &["--sequences", "6", "--adapter", "offline.tetrad"][..]].concat()));
    assert_eq!(imported["loss"], eval(&["--expert", "offline"])["loss"]);
    place.ok(&["verify", adapter]);
    assert!(place.ok(&["dump", adapter]).contains("offline.model.layers.0.self_attn.q_proj.lora_A"));
    // What pairs add, and how far the module that follows is behind.
    let dumped = json(&place.ok(&["dump", "--stats", "--json", adapter]));
    let added = dumped["pairs"].as_array().unwrap();
    assert_eq!(added.len(), 7 * dumped["metadata"]["model"]["layers"].as_u64().unwrap() as usize);
    for pair in added {
        let (rms, apart) = (pair["rms"].as_f64().unwrap(), pair["offline"].as_f64().unwrap());
        assert!(rms > 1e-5 && apart > 0.01 && apart < 1.5, "{pair}");
    }
    let text = place.ok(&["dump", "--stats", adapter]);
    assert!(text.contains("what pairs of matrices add") && text.contains("model.layers.0.self_attn.q_proj"), "{text}");
    assert!(!place.ok(&["dump", "--stats", "base/model.tetrad"]).contains("pairs of matrices"));
    let page = place.ok(&["report", "runs/a"]);
    assert!(page.contains("report.html"), "{page}");
}

#[test]
fn a_sequence_that_is_killed_in_any_task_ends_in_the_same_bytes() {
    let place = workplace();
    place.ok(&["continual", "tasks.toml", "--set", "run.dir=whole"]);
    let args = ["continual", "tasks.toml", "--set", "run.dir=killed", "--resume"];
    let mut kills = 0;
    // A little longer each time, so that it is killed everywhere, and ends.
    for wait in 1.. {
        let mut child = place.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut left = 8 * wait;
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if left == 0 => break None,
                None => {
                    left -= 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        };
        match ended {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
        }
    }
    assert!(kills > 0, "it was never killed");
    for task in ["1-novel", "2-digits", "3-rust"] {
        for file in ["adapter.tetrad", "scores.json"] {
            let [whole, killed] = ["whole", "killed"].map(|dir| place.read(&format!("{dir}/ema/{task}/{file}")));
            assert!(whole == killed, "{task}/{file} after {kills} kills");
        }
    }
    assert_eq!(results(&place, "whole"), results(&place, "killed"));
    assert!(names(&place, "killed/ema/2-digits").contains(&"metrics.jsonl".to_owned()));
}

/// Steps in which no weight is to move are neither spikes nor updates that are lost.
#[test]
fn frozen_steps_are_nothing_that_a_watchdog_barks_at() {
    let place = workplace();
    let watched = ["train.spike_z=8", "train.spike_window=4", "train.on_spike=stop", "train.max_unmoved=5"];
    let sets = watched.iter().chain(&["train.audit_every=2", "continual.freeze=12", "run.dir=runs/f"]);
    let args: Vec<&str> = ["continual", "tasks.toml"].into_iter().chain(sets.flat_map(|set| ["--set", set])).collect();
    place.ok(&args);
    let lines = String::from_utf8(place.read("runs/f/ema/2-digits/metrics.jsonl")).unwrap();
    let norms: Vec<bool> =
        lines.lines().map(json).filter(|l| l["loss"].is_f64()).map(|l| l["grad_norm"].is_f64()).collect();
    assert_eq!(norms, [[false; 12].as_slice(), &[true; 8]].concat());
}

#[test]
fn mistakes_are_refused_before_anything_is_trained() {
    let place = workplace();
    let said = |more: &[&str]| place.fails(&[&["continual", "tasks.toml", "--set", "run.dir=x"], more].concat());
    for (set, wanted) in [
        ("continual.methods=['lae']", "continual.methods"),
        ("adapter.kind=none", "adapter.kind"),
        ("adapter.base=nothing.tetrad", "nothing.tetrad"),
        ("data.validation_fraction=0", "continual.task \"digits\": has no held-out text"),
        ("train.epochs=1", "continual.task \"novel\": has no steps"),
    ] {
        let found = said(&["--set", set]);
        assert!(found.contains(wanted), "{set}: {found}");
    }
    let decays = said(&["--set", "continual.methods=['o-lora']", "--set", "optimizer.weight_decay=0.1"]);
    assert!(decays.contains("optimizer.weight_decay") && decays.contains("earlier tasks"), "{decays}");
    assert!(!place.path("x").exists(), "{:?}", names(&place, "x"));
    let plain = place.fails(&["train", "tasks.toml", "--from", "base/model.tetrad"]);
    assert!(plain.contains("trained by `tetrad continual`"), "{plain}");
    // The plan knows the module that begins with the second task.
    let plan = |more: &[&str]| place.ok(&[&["plan", "tasks.toml", "--from", "base/model.tetrad"], more].concat());
    assert!(plan(&[]).contains("offline.model.layers.*.self_attn.q_proj.lora_A data"), "{}", plan(&[]));
    assert!(!plan(&["--set", "continual.task=[]"]).contains("offline."));
    std::fs::write(place.path("none.toml"), TASKS.split("[[").next().unwrap()).unwrap();
    assert!(place.fails(&["continual", "none.toml"]).contains("names no task"));
    // A folder holds one sequence.
    place.ok(&["continual", "tasks.toml", "--set", "run.dir=y", "--set", "train.steps=4", "--set", "train.warmup=0"]);
    let again = place.fails(&["continual", "tasks.toml", "--set", "run.dir=y"]);
    assert!(again.contains("continue it with --resume"), "{again}");
    let other = place.fails(&["continual", "tasks.toml", "--set", "run.dir=y", "--set", "train.steps=5", "--resume"]);
    assert!(other.contains("was begun with"), "{other}");
}

#[test]
fn the_script_of_the_measurement_runs() {
    let place = workplace();
    let python = std::process::Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED the script of the measurement: there is no python3");
        return;
    }
    let corpus = include_str!("../../assets/corpus/austen.txt");
    for (i, name) in
        ["sotu", "milton", "world_english_bible", "shakespeare_modern", "docs", "jane_austen"].iter().enumerate()
    {
        let part = &corpus[60_000 * i..][..20_000];
        let text = if i % 2 == 0 { part.to_uppercase() } else { part.into() };
        std::fs::write(place.path(&format!("{name}.txt")), text).unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/quality/continual.py");
    let run = |folder: &str| {
        let output = std::process::Command::new("python3")
            .current_dir(place.path("."))
            .args([script, env!("CARGO_BIN_EXE_tetrad"), "base/model.tetrad", ".", folder, "--records=records.jsonl"])
            .args(["--steps=6", "--batch=2", "--sequence=32", "--windows=4", "--rank=2", "--orders=2"])
            .output()
            .unwrap();
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}\n{wrong}");
        said.into_owned()
    };
    let said = run("measured");
    assert!(said.contains("| ema | posterior |") && said.contains("| full |  |"), "{said}");
    assert!(said.contains("posterior's share of the way to joint"), "{said}");
    let found = results(&place, "measured/order-2");
    assert_eq!(found["tasks"][0], "docs");
    // What is on record is not run again.
    assert_eq!(run("again"), said);
    assert!(!place.path("again/order-1").exists());
}

/// Lines of questions, all with one answer, or with the answers by turns of three.
fn questions(answers: [&str; 3]) -> String {
    let line = |i: usize| format!("{{\"prompt\": \"Is {i} so? \", \"completion\": \"{}\"}}\n", answers[i % 3]);
    (0..12).map(line).collect()
}

#[test]
fn questions_are_answered_by_the_likeliest_of_their_answers() {
    let place = workplace();
    let write = |name: &str, text: String| std::fs::write(place.path(name), text).unwrap();
    write("yes.jsonl", questions(["yes"; 3]).repeat(10));
    write("no.jsonl", questions(["no"; 3]).repeat(10));
    write("held.jsonl", questions(["yes", "yes", "no"]));
    let tasks = ["yes", "no"].map(|name| {
        format!(
            "[[continual.task]]\nname = \"{name}\"\ntrain = [\"{name}.jsonl\"]\nvalidation = [\"held.jsonl\"]\n\
             choices = [\"yes\", \"no\"]\n"
        )
    });
    let head = TASKS.split("[[").next().unwrap().replace("freeze = 2", "keep = 0.9");
    write("questions.toml", head + &tasks.concat());
    let said = place.ok(&["continual", "questions.toml", "--set", "run.dir=q", "--set", "train.steps=60"]);
    assert!(said.contains("answered rightly at the end"), "{said}");
    let found = results(&place, "q");
    // Whoever learned one answer gives it always: right in two questions of three, or in one.
    let of_yes = 8.0 / 12.0;
    let online = &of(&found, "ema", "online")["accuracy"];
    assert_eq!(online["matrix"], serde_json::json!([[of_yes, of_yes], [4.0 / 12.0, 4.0 / 12.0]]));
    assert!((online["forgetting"].as_f64().unwrap() - of_yes / 2.0).abs() < 1e-12, "{online}");
    let offline = &of(&found, "ema", "offline")["accuracy"];
    assert_eq!(offline["matrix"][1][0].as_f64(), Some(of_yes), "of which a task leaves 0.9: {offline}");
    // The same questions, whose answers are written: to the end of the text.
    let written = std::fs::read_to_string(place.path("questions.toml")).unwrap();
    let written = written.replace("rank = 4", "rank = 4\ntargets = [\"all\", \"embedding\", \"head\"]");
    write("written.toml", written.replace("choices = [\"yes\", \"no\"]", "exact = true"));
    let said = place.ok(&["continual", "written.toml", "--set", "run.dir=w", "--set", "train.steps=60"]);
    assert!(said.contains("answered rightly at the end"), "{said}");
    let found = results(&place, "w");
    let exact = &of(&found, "ema", "online")["accuracy"]["matrix"];
    assert_eq!(*exact, serde_json::json!([[of_yes, of_yes], [4.0 / 12.0, 4.0 / 12.0]]));
    write("plain.txt", "A text without any prompt. ".repeat(100));
    write(
        "written.toml",
        written.replace("choices = [\"yes\", \"no\"]", "exact = true").replace("held.jsonl", "plain.txt"),
    );
    let refused = place.fails(&["continual", "written.toml", "--set", "run.dir=x"]);
    assert!(refused.contains("row 1 of the held-out text has no prompt before its answer"), "{refused}");
    write("written.toml", written.replace("choices =", "exact = true\nchoices ="));
    let refused = place.fails(&["continual", "written.toml", "--set", "run.dir=x"]);
    assert!(refused.contains("exact = true (written.toml, line 29): needs validation"), "{refused}");
    // What is no answer is refused.
    write("held.jsonl", questions(["yes", "maybe", "no"]));
    let refused = place.fails(&["continual", "questions.toml", "--set", "run.dir=r"]);
    assert!(refused.contains("held.jsonl, line 2: \"maybe\" is none of continual.task.choices: yes, no"), "{refused}");
}
