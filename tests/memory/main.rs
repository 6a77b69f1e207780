//! Promises about memory. An allocator that counts serves this whole program, and what it counts belongs to one test
//! only while no other runs, so each test that counts does so in a process of its own.

#[path = "../harness/mod.rs"]
mod harness;

mod convert;
mod counting;
mod device;
mod ledger;
mod operations;
mod process;
mod steps;

use std::process::Command;

/// Set in the process that a test starts for itself.
const ALONE: &str = "TETRAD_TEST_ALONE";

/// Does the work of the test of this name in a process of its own: this program again, with that test only.
pub fn alone(test: &str, work: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return work();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ALONE, "1");
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprint!("{err}");
    assert!(output.status.success() && out.contains("1 passed"), "{test}: {}\n{out}\n{err}", output.status);
}
