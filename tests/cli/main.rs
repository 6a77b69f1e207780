//! The commands as a user runs them: real processes, what they print, what they leave, what they refuse.

#[path = "../harness/mod.rs"]
mod harness;

mod adapter;
mod adapter_files;
mod cases;
mod chat;
mod compare;
mod config_errors;
mod config_load;
mod config_print;
mod continual;
mod convert;
mod curves;
mod device;
mod doctor;
mod eval;
mod gpu_ranks;
mod interrupted;
mod ladder;
mod mistakes;
mod plan;
mod prepare;
mod profile;
mod ranks;
mod recovery;
mod resume;
mod run_dir;
mod sample;
mod sweep;
mod train;
mod tuning;
mod watchdog;

use harness::process::{TINY, Workplace};
use serde_json::Value;

/// What every training of these tests adds to `tiny.toml`: a small text instead of the bundled corpus.
pub const TEXT: [&str; 6] =
    ["--set", "data.train=['train.txt']", "--set", "data.validation=['val.txt']", "--set", "train.eval_sequences=0"];

/// A folder with two texts cut from the bundled corpus; `val.txt` ends with a newline, so that no token is added.
pub fn workplace() -> Workplace {
    let place = Workplace::new();
    let corpus = include_str!("../../assets/corpus/austen.txt");
    std::fs::write(place.path("train.txt"), &corpus[..40_000]).unwrap();
    std::fs::write(place.path("val.txt"), corpus[50_000..53_000].to_owned() + "\n").unwrap();
    place
}

/// Trains `tiny.toml` and gives what it printed.
pub fn train(place: &Workplace, more: &[&str]) -> String {
    place.ok(&[&["train", "tiny.toml"], &TEXT[..], more].concat())
}

/// What a training that must be refused says.
pub fn refused(place: &Workplace, more: &[&str]) -> String {
    place.fails(&[&["train", "tiny.toml"], &TEXT[..], more].concat())
}

/// A model of 30 steps in `run`.
pub fn trained() -> Workplace {
    let place = workplace();
    train(&place, &["--set", "train.steps=30"]);
    place
}

/// A text that must be JSON.
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The lines of a run's metrics.
pub fn metrics(place: &Workplace, run: &str) -> Vec<Value> {
    String::from_utf8(place.read(&format!("{run}/metrics.jsonl"))).unwrap().lines().map(json).collect()
}

/// The names in a folder, sorted; hidden ones left out.
pub fn names(place: &Workplace, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(place.path(folder)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}
