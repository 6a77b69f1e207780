//! A short run of what `tests/fuzz` fuzzes for hours: each reader on the files that fuzzing begins with, and on thousands of
//! mutations of them that are the same in every run.

#[path = "../fuzz/engine.rs"]
mod engine;
#[path = "../fuzz/readers/mod.rs"]
#[allow(dead_code, reason = "the driver asks for readers by name")]
mod readers;

use crate::support::mutate;
use engine::Engine;
use readers::ALL;
use std::path::PathBuf;

const MUTATIONS: u64 = 3000;

#[test]
fn whatever_a_reader_is_given_it_ends_in_a_value_or_an_error() {
    for reader in &ALL {
        let mut engine =
            Engine::new(reader, 0, Box::new(|_| {})).unwrap_or_else(|finding| broken(reader.name, &finding));
        engine.run(MUTATIONS).unwrap_or_else(|finding| broken(reader.name, &finding));
        assert!(engine.ways() >= 5, "{}: {} ways to end", reader.name, engine.ways());
        println!("{}: {} inputs, {} ways to end", reader.name, engine.executions, engine.ways());
    }
}

/// Keeps the input.
fn broken<T>(name: &str, finding: &engine::Finding) -> T {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-finding"));
    std::fs::write(&path, &finding.input).unwrap();
    panic!("{name} breaks on {}: {}", path.display(), finding.panic);
}
