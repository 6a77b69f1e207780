//! The curves of runs: metrics, TensorBoard's events, pages and tables.

use super::{metrics, train, workplace};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

#[test]
fn a_line_says_when_it_was_and_how_far_the_text_was_read() {
    let place = workplace();
    train(&place, &["--set", "train.steps=12", "--set", "train.warmup=2", "--set", "optimizer.grad_clip=0.5"]);
    let lines: Vec<_> = metrics(&place, "run").into_iter().filter(|line| line["loss"].is_number()).collect();
    let number = |i: usize, key: &str| lines[i][key].as_f64().unwrap_or_else(|| panic!("{key}: {}", lines[i]));
    assert_eq!((number(0, "tokens"), number(11, "tokens")), (128.0, 12.0 * 128.0));
    assert!(number(11, "time") >= number(0, "time") && number(0, "time") > 1.7e9);
    assert!((number(11, "epoch") / number(0, "epoch") - 12.0).abs() < 1e-9);
    assert!(number(0, "clip_factor") <= 1.0 && (0.0..=1.0).contains(&number(11, "clipped_share")));
    // The share is that of all steps so far.
    let last = number(11, "clipped_share") * 12.0;
    let clipped = (0..12).filter(|&i| number(i, "clip_factor") < 1.0).count() as f64;
    assert!((last - clipped).abs() < 1e-9, "{clipped} of 12 steps were clipped");
}

/// TensorBoard's own reader: scalars by tag and step.
const READ: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
tags = events.Tags()['scalars']
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags}))
";

#[test]
fn tensorboard_reads_what_the_metrics_say() {
    let place = workplace();
    let on = ["--set", "run.tensorboard=true", "--set", "train.steps=9", "--set", "train.warmup=2"];
    train(&place, &[&on[..], &["--stop-at", "6"]].concat());
    train(&place, &[&on[..], &["--resume"]].concat());
    let events = std::fs::read_dir(place.path("run")).unwrap();
    let events = events.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("tfevents"));
    assert_eq!(events.count(), 2, "one file for each start");
    let python = std::env::var("TETRAD_PYTHON").unwrap_or_else(|_| "python3".into());
    let output = Command::new(&python).args(["-c", READ, place.path("run").to_str().unwrap()]).output();
    let output = match output {
        Ok(output) if output.status.success() => output.stdout,
        _ => {
            return eprintln!(
                "SKIPPED: {python} has no tensorboard (pip install tensorboard; TETRAD_PYTHON names another)"
            );
        }
    };
    let found: BTreeMap<String, Vec<(u64, f64)>> = serde_json::from_slice(&output).unwrap();
    let told = |key: &str| -> Vec<(u64, f64)> {
        let lines = metrics(&place, "run").into_iter();
        lines.filter_map(|line| Some((line["step"].as_u64()?, line[key].as_f64()?))).collect()
    };
    for (tag, key) in [("train/loss", "loss"), ("train/lr", "lr"), ("validation/loss", "val_loss")] {
        let (found, told) = (&found[tag], told(key));
        assert_eq!(found.len(), told.len(), "{tag}");
        for (found, told) in found.iter().zip(told) {
            assert!(found.0 == told.0 && (found.1 - told.1).abs() <= 1e-6 * told.1.abs(), "{tag}: {found:?} {told:?}");
        }
    }
}

/// What stands for Weights & Biases' package: it writes down what it is told.
const WANDB: &str = "
import json, os

class Run:
    step = int(os.environ['SENT'])
    def log(self, values, step):
        print(json.dumps({'step': step, **values}))
    def finish(self):
        pass

def init(project, name, id, config, resume):
    print(json.dumps({'project': project, 'name': name, 'config': config}))
    return Run()
";

#[test]
fn a_run_is_sent_to_weights_and_biases_as_its_metrics_say_and_goes_on_where_it_ended() {
    let place = workplace();
    train(&place, &["--set", "train.steps=6", "--set", "train.warmup=2"]);
    std::fs::write(place.path("wandb.py"), WANDB).unwrap();
    let upload = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/wandb_upload.py");
    let sent = |already: &str| -> Vec<serde_json::Value> {
        let python = std::env::var("TETRAD_PYTHON").unwrap_or_else(|_| "python3".into());
        let mut command = Command::new(&python);
        command.arg(upload).arg(place.path("run")).env("PYTHONPATH", place.path("")).env("SENT", already);
        let output = command.output().unwrap_or_else(|error| panic!("{python}: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    };
    let (all, told) = (sent("0"), metrics(&place, "run"));
    assert_eq!((&all[0]["name"], &all[0]["config"]["train.steps"]), (&"run".into(), &6.into()));
    assert_eq!(all.len() - 1, told.len(), "one call for each line");
    for (sent, told) in all[1..].iter().zip(&told) {
        assert_eq!((&sent["step"], &sent["loss"]), (&told["step"], &told["loss"]));
    }
    let rest = sent("5");
    assert!(rest.len() > 1 && rest[1..].iter().all(|line| line["step"].as_u64() >= Some(5)), "{rest:?}");
}

#[test]
fn several_runs_share_a_page_and_a_table() {
    let place = workplace();
    for (run, rate) in [("runs/a", "optimizer.lr=1e-3"), ("runs/b", "optimizer.lr=4e-3")] {
        train(
            &place,
            &[
                "--set",
                "train.steps=8",
                "--set",
                "train.warmup=2",
                "--set",
                "train.sample_tokens=5",
                "--set",
                &format!("run.dir={run}"),
                "--set",
                rate,
            ],
        );
    }
    let said = place.ok(&["report", "runs/a", "runs/b", "-o", "both.html"]);
    assert!(said.starts_with("both.html: 2 runs, "), "{said}");
    let page = String::from_utf8(place.read("both.html")).unwrap();
    assert_eq!(page.matches("<h2>Training loss").count(), 1);
    assert!(page.contains(">a</td>") && page.contains(">b</td>") && page.contains("0.004"), "both are named");
    assert!(!page.contains("http"), "nothing is fetched");
    assert!(page.contains("<td>optimizer.lr</td><td>0.001</td><td>0.004</td>"), "what the runs differ in");
    let program = format!("<td>tetrad {0}</td><td>tetrad {0}</td>", env!("CARGO_PKG_VERSION"));
    assert!(page.contains(&program) && page.contains("fingerprint of the text"), "{program}");
    assert!(page.contains("a, step 8</p><pre>"), "the text sample at the end");
    place.ok(&["report", "runs", "--csv", "-o", "both.csv"]);
    let text = String::from_utf8(place.read("both.csv")).unwrap();
    assert_eq!(text.lines().count(), 1 + 2 * 8, "a line for each step");
    assert!(text.starts_with("run,step,") && text.lines().nth(1).unwrap().starts_with("a,1,"), "{text}");
    // Drawn anew as often as it is asked for, and over nothing else.
    for (more, file) in [(&[][..], "both.html"), (&["--csv"], "both.csv")] {
        let report = |to: &'static str| [&["report", "runs"], more, &["-o", to]].concat();
        place.ok(&report(file));
        let model = place.read("runs/a/model.tetrad");
        for own in ["runs/a/model.tetrad", "tiny.toml", if more.is_empty() { "both.csv" } else { "both.html" }] {
            let said = place.fails(&report(own));
            assert!(said.contains(&format!("{own}: exists already and is not a ")), "{said}");
            assert!(said.contains("name another file, or replace it with --overwrite"), "{said}");
        }
        assert!(place.read("runs/a/model.tetrad") == model);
    }
    std::fs::write(place.path("notes.html"), "<p>mine").unwrap();
    place.ok(&["report", "runs", "-o", "notes.html", "--overwrite"]);
    assert!(place.read("notes.html") == place.read("both.html"));
    assert!(place.fails(&["report", "tiny"]).contains("tiny"));
    std::fs::create_dir(place.path("empty")).unwrap();
    assert!(place.fails(&["report", "empty"]).contains("holds no run that has done a step"));
}

#[test]
fn a_run_is_watched_in_a_browser() {
    let place = workplace();
    train(&place, &["--set", "train.steps=4", "--set", "train.warmup=2"]);
    let mut server = place.command(&["report", "run", "--live", "0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let at = line.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(&at).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let (page, none) = (get("/"), get("/../tiny.toml"));
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(
        page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("Training loss") && page.contains("location.reload")
    );
    assert!(none.starts_with("HTTP/1.1 404 ") && !none.contains("hidden"), "{none}");
}
