//! Mistakes in the PTX are noticed.

use crate::harness::interpreted::{MUTATION, library};
use crate::harness::mutations::{ALL, CHANGED, Mutation};
use std::process::Command;

/// What a test says of PTX with a mistake, in a process of its own: whether it passed, and what it printed.
fn with(mutation: &Mutation) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", mutation.test, "--nocapture", "--test-threads=1"]).env(MUTATION, mutation.name);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), said.concat())
}

/// That the tests pass without the mistakes is theirs to show: they are in this program too.
#[test]
fn every_mistake_is_noticed() {
    if library().is_none() {
        assert!(std::env::var_os("TETRAD_REQUIRE_NVRTC").is_none(), "there is no NVRTC: tests/setup.sh installs it");
        eprintln!("SKIPPED: there is no NVRTC, and so no PTX to change");
        return;
    }
    for mutation in ALL {
        let (passed, said) = with(mutation);
        let changed = said.lines().find_map(|line| line.split_once(CHANGED));
        let (_, places) = changed.unwrap_or_else(|| panic!("{}: nothing was changed:\n{said}", mutation.name));
        assert!(!places.starts_with("0 "), "{}: nothing was changed", mutation.name);
        assert!(!passed, "{}, in {places}, and {} passes", mutation.name, mutation.test);
        let why = said.lines().find(|line| line.contains("panicked at")).map(|_| said.lines().rev());
        assert!(why.is_some(), "{}: {} did not fail by a comparison:\n{said}", mutation.name, mutation.test);
        let reason = said.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or_default();
        println!("{} ({places}): {}: {reason:.160}", mutation.name, mutation.test);
    }
}
