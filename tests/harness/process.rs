//! Running the real program in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder that a test's processes run in; removed at the end.
pub struct Workplace {
    dir: tempfile::TempDir,
}

/// A model so small that a step takes about a millisecond, with every part that a large one has: grouped queries,
/// padded rows (40 and 88 are no multiples of 32), packed tables.
pub const TINY: &str = r#"
[model]
hidden = 40
intermediate = 88
layers = 2
heads = 4
kv_heads = 2
vocab = 256
context = 64

[storage]
group = 32
embedding = "int8"
head = "int4"

[train]
steps = 200
batch = 4
sequence = 32
warmup = 20
eval_every = 0
eval_sequences = 8
checkpoint_every = 0
sample_tokens = 0
keep = 0

[run]
dir = "run"
seed = 7
"#;

impl Workplace {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tetrad"));
        command.current_dir(self.dir.path()).args(args).stdin(Stdio::null());
        // What is compared here are the CPU's bytes, also on a machine with a GPU.
        command.env("TETRAD_DEVICE", "cpu");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed and gives its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "tetrad {args:?}: {}\n{out}\n{err}", output.status);
        out
    }

    /// Runs a command that must fail with status 2 and gives what it says.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "tetrad {args:?} should fail; it said: {err}");
        err
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The checkpoints of a run directory, oldest first.
    pub fn checkpoints(&self, run: &str) -> Vec<PathBuf> {
        let mut found: Vec<_> = std::fs::read_dir(self.path(run))
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default();
        found.retain(|path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("step-") && name.ends_with(".tetrad")
        });
        found.sort();
        found
    }

    pub fn assert_sound(&self, file: &Path) {
        self.ok(&["verify", file.to_str().unwrap()]);
    }
}
