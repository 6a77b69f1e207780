//! `train --profile`: the table, the trace, and that nothing else changes.

use super::{json, refused, train, workplace};
use serde_json::Value;
use tetrad::config::Config;

/// Without recomputing, so that every product is made once.
const STEPS: [&str; 6] =
    ["--set", "train.steps=4", "--set", "train.warmup=1", "--set", "run.activation_checkpointing=none"];

/// Sum of a number of the arguments of all events of a name.
fn sum(events: &[&Value], name: &str, argument: &str) -> u64 {
    let of = events.iter().filter(|event| event["name"] == name);
    of.map(|event| event["args"][argument].as_u64().unwrap()).sum()
}

#[test]
fn a_profile_has_every_operation_of_a_step_and_changes_no_byte() {
    let place = workplace();
    let plain = train(&place, &[&STEPS[..], &["--set", "run.dir=plain"]].concat());
    assert!(!plain.contains("profile"), "{plain}");
    let said = train(&place, &[&STEPS[..], &["--set", "run.dir=run", "--profile"]].concat());
    assert_eq!(place.read("plain/model.tetrad"), place.read("run/model.tetrad"));
    assert!(said.contains("profile of 3 steps after the first"), "{said}");
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    let row =
        |name: &str| rows.iter().find(|row| row.first() == Some(&name)).unwrap_or_else(|| panic!("{name}: {said}"));
    let share = |row: &[&str]| row[3].parse::<f64>().unwrap();
    let shares: f64 = ["linear", "linear_grad_input", "linear_grad_weight", "adam", "attention"]
        .map(|name| share(row(name)))
        .iter()
        .sum();
    assert!(shares > 0.0 && shares <= 100.0, "{said}");
    assert_eq!(row("adam")[5..7], ["-", "-"], "updates have no products: {said}");

    let trace = json(&String::from_utf8(place.read("run/profile.json")).unwrap());
    let events: Vec<_> = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X").collect();
    let (steps, operations): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| event["tid"] == 1);
    assert_eq!(steps.iter().map(|step| &step["name"]).collect::<Vec<_>>(), ["step 1", "step 2", "step 3", "step 4"]);
    let time = |event: &Value| (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
    let inside = |step: &Value, event: &Value| {
        let ((from, took), (begun, lasted)) = (time(step), time(event));
        begun >= from && begun + lasted <= from + took
    };
    let counted = |step: &Value| operations.iter().filter(|event| inside(step, event)).copied().collect::<Vec<_>>();
    let (second, third) = (counted(steps[1]), counted(steps[2]));
    assert_eq!(second.len(), third.len(), "every step has the same operations");

    // Each weight of a matrix meets each token once in forward, once for the input's gradient, once for its own.
    let config = Config::load(Some(place.path("run/config.toml").to_str().unwrap()), &[]).unwrap();
    let (model, train) = (&config.model, &config.train);
    let block = model.hidden * (2 * model.query_width() + 2 * model.kv_width() + 3 * model.intermediate);
    let weights = model.layers * block + model.vocab * model.hidden;
    let once = (2 * train.batch * train.sequence * weights) as u64;
    let forward = ["linear", "linear_onto", "linear_joined"];
    assert_eq!(forward.map(|name| sum(&second, name, "flops")).iter().sum::<u64>(), once);
    for name in ["linear_grad_input", "linear_grad_weight"] {
        assert_eq!(sum(&second, name, "flops"), once, "{name}");
    }
    let pairs = train.batch * model.heads * train.sequence * (train.sequence + 1) / 2;
    let attention = (4 * pairs * model.head_dim() * model.layers) as u64;
    assert_eq!(sum(&second, "attention", "flops"), attention);
    assert_eq!(sum(&second, "attention_grad", "flops"), attention / 2 * 5);
    // Gradients are float32, and an update reads each once.
    assert!(sum(&second, "adam", "bytes") > 4 * weights as u64);
}

#[test]
fn one_step_has_a_trace_and_no_table() {
    let place = workplace();
    let said = train(&place, &["--set", "train.steps=1", "--set", "train.warmup=0", "--profile=trace.json"]);
    assert!(said.contains("profile: no table, since it leaves out the first step and there was no other"), "{said}");
    let trace = json(&String::from_utf8(place.read("trace.json")).unwrap());
    assert!(trace["traceEvents"].as_array().unwrap().iter().any(|event| event["name"] == "linear"));
    let again = ["--set", "train.steps=1", "--set", "train.warmup=0", "--overwrite"];
    train(&place, &[&again[..], &["--profile=trace.json"]].concat());
    let said = refused(&place, &[&again[..], &["--profile=tiny.toml"]].concat());
    assert!(said.contains("--profile: tiny.toml: exists already and is not a trace; name another file"), "{said}");
    assert!(!place.checkpoints("run").is_empty(), "refused before the run there is deleted");
}

#[test]
fn a_trace_that_cannot_be_written_is_refused_before_the_first_step() {
    let place = workplace();
    let said = refused(&place, &["--profile=train.txt/trace.json"]);
    assert!(said.starts_with("tetrad: --profile: train.txt/trace.json: "), "{said}");
    assert!(place.checkpoints("run").is_empty(), "nothing was trained");
}
