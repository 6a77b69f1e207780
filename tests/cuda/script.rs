//! `benches/gpu.sh`, with small shapes on the emulated device: what a lent GPU's few minutes depend on must not break unseen.
//! The tools of a machine with a GPU are scripts that take their arguments and answer as those do.

use crate::harness::gpu::emulator;
use crate::harness::root;
use crate::measured;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tells [`measurements`] what to measure.
const PARTS: &str = "TETRAD_TEST_PARTS";

/// What `benches/gpu/main.rs` is in the script's test; nothing where no part is asked for.
#[test]
fn measurements() {
    let Ok(parts) = std::env::var(PARTS) else { return };
    // Behind what the test harness says.
    println!();
    measured::run(&parts.split(' ').map(str::to_owned).collect::<Vec<_>>());
    // Before what it adds.
    std::process::exit(0);
}

const NVIDIA_SMI: &str = r#"case "$*" in
    *name,driver*) echo "name, driver_version"; echo "Emulated GPU, 0" ;;
    *query-gpu=name*) echo "Emulated GPU" ;;
    *memory.used*) echo "0 MiB" ;;
esac"#;

/// Has PyTorch, and times what it is told to.
const PYTHON: &str = r#"case "$1" in
    -c) exit 0 ;;
    benches/gpu_torch.py) echo "| PyTorch $* | 1 | 1 | 1 | 1 | 1 |" ;;
    *) exit 1 ;;
esac"#;

/// Runs the program, and reports one kernel.
const NCU: &str = r#"while [ "${1#--}" != "$1" ]; do
    case $1 in --section | --clock-control) shift 2 ;; *) exit 1 ;; esac
done
"$@" >/dev/null || exit 1
echo "  rope(unsigned short *, float) (512, 1, 1)x(256, 1, 1), Context 1, Stream 13, Device 0, CC 9.0"
echo "    Duration                        us        12.50"
echo "    Memory Throughput                 %        55.01"
echo "    Compute (SM) Throughput           %        21.40"
echo "    Achieved Occupancy                %        91.20""#;

/// Runs the program, and finds nothing.
const SANITIZER: &str = r#"while [ "${1#--}" != "$1" ]; do
    case $1 in --tool | --error-exitcode | --kernel-name-exclude) shift 2 ;; *) exit 1 ;; esac
done
exec "$@""#;

/// A machine with a GPU, as far as the script sees one.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["bin", "built", "out"] {
            fs::create_dir(machine.path(folder)).unwrap();
        }
        for (name, text) in
            [("nvidia-smi", NVIDIA_SMI), ("python3", PYTHON), ("ncu", NCU), ("compute-sanitizer", SANITIZER)]
        {
            machine.tool(&format!("bin/{name}"), text);
        }
        let own = std::env::current_exe().unwrap();
        symlink(env!("CARGO_BIN_EXE_tetrad"), machine.path("built/tetrad")).unwrap();
        symlink(&own, machine.path("built/cuda")).unwrap();
        fs::write(machine.path("built/commit"), "abc\n").unwrap();
        let measure = "--exact script::measurements --nocapture --test-threads=1";
        machine.tool("built/gpu", &format!("{PARTS}=\"$*\" exec '{}' {measure}", own.display()));
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tool(&self, name: &str, text: &str) {
        fs::write(self.path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Exit status and report of a call. Processes of a loaded machine take as long as they take.
    fn call(&self, call: &str, seconds: u32) -> (i32, String) {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("bash");
        command.arg(root().join("benches/gpu.sh")).arg(call).current_dir(self.folder.path());
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command.env("TETRAD_CUDA_LIBRARIES", emulator().libraries()).env("CUDA_EMULATOR_CHECKS", "0");
        command.env("XDG_CACHE_HOME", self.path("cache")).env_remove("TETRAD_DEVICE");
        command.env("BUILT", self.path("built")).env("OUT", self.path("out"));
        command.env("SMALL", "1").env("LIMIT", seconds.to_string());
        let output = command.output().unwrap();
        let report = self.files().into_iter().find(|file| file.ends_with(&format!("-{call}.md")));
        let report = fs::read_to_string(self.path("out").join(report.expect("a report"))).unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, report, "all of it is told as it comes; {}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().expect("a status"), report)
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("out")).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }
}

/// The names in an archive of logs.
fn names(archive: &Path) -> String {
    let output = Command::new("tar").arg("tzf").arg(archive).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The rows of a table below a heading, but for its first two lines.
fn rows<'a>(report: &'a str, heading: &str) -> Vec<&'a str> {
    let part = report.split(&format!("## {heading}")).nth(1).unwrap_or_else(|| panic!("no {heading} in\n{report}"));
    let part = part.split("\n## ").next().unwrap();
    part.lines().filter(|line| line.starts_with("| ")).skip(2).collect()
}

#[test]
fn both_calls_write_every_part_of_their_reports() {
    let machine = Machine::new();
    let (status, report) = machine.call("a", 3600);
    println!("{report}");
    assert!(status == 0 && report.contains("\n0 parts failed; "), "{status}\n{report}");
    assert!(report.starts_with("# Emulated GPU, call a\n") && report.contains("commit abc."), "{report}");
    assert!(report.contains("Emulated GPU: ") && report.contains("on Emulated GPU, NVRTC 13.0"), "{report}");
    assert!(report.contains("roots and ") && report.contains(" quotients are correctly rounded\n"), "{report}");
    assert!(report.contains("\n- device::products: 2 passed\n"), "{report}");
    for (heading, least) in [
        ("First steps", 2),
        ("Kernels", 35),
        ("Training steps", 1),
        ("The 1b preset in PyTorch", 2),
        ("Memory, as the driver reports it", 1),
        ("A run beside the CPU's", 4),
    ] {
        let found = rows(&report, heading);
        assert!(found.len() >= least, "{heading}: {found:?}");
        assert!(!found.concat().contains("NaN") && !found.concat().contains("inf"), "{heading}: {found:?}");
    }
    let torch = rows(&report, "The 1b preset in PyTorch").concat();
    assert!(torch.contains("--intermediate 5461") && torch.contains("--intermediate 5504"), "{torch}");
    // Of four steps on the device two were done on the CPU too.
    let curve = rows(&report, "A run beside the CPU's");
    assert_eq!(curve.iter().filter(|row| row.ends_with("|  |")).count(), 2, "{curve:?}");

    let (status, report) = machine.call("b", 3600);
    assert!(status == 0 && report.contains("\n0 parts failed; "), "{status}\n{report}");
    assert_eq!(rows(&report, "Kernels, by the profiler"), ["| rope | 12.50 | 21.40 | 55.01 | 91.20 |"]);
    assert_eq!(report.matches("Nothing found: instructions::matrices.").count(), 2, "{report}");
    assert!(machine.files().len() <= 4, "{:?}", machine.files());
    let logs = names(&machine.path("out/logs-a.tar.gz"));
    assert!(logs.contains("tests-device--products.log") && logs.contains("dmon.txt"), "{logs}");
}

/// All modules but those that need the emulated device, and the one that is a part of its own.
#[test]
fn a_device_is_held_to_every_module_of_these_tests() {
    let script = fs::read_to_string(root().join("benches/gpu.sh")).unwrap();
    let (full, _) = script.split_once("if [ -n \"$small\" ]").unwrap();
    let lists = full.lines().filter_map(|line| line.strip_prefix("tests=(").or_else(|| line.strip_prefix("tests+=(")));
    let mut listed: Vec<&str> = lists.flat_map(|list| list.trim_end_matches(')').split(' ')).collect();
    let own = fs::read_to_string(root().join("tests/cuda/main.rs")).unwrap();
    let modules = own.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let apart = ["harness", "measured", "errors", "exact", "ranks", "script"];
    let mut wanted: Vec<String> =
        modules.filter(|name| !apart.contains(name)).map(|name| format!("{name}::")).collect();
    listed.sort_unstable();
    wanted.sort();
    assert_eq!(listed, wanted);
}

#[test]
fn what_fails_is_told_and_the_rest_is_done() {
    let machine = Machine::new();
    machine.tool("bin/ncu", "exit 0");
    let broken = r#"case $2 in memcheck) echo "========= Invalid __global__ read"; exit 9 ;; *) exit 1 ;; esac"#;
    machine.tool("bin/compute-sanitizer", broken);
    let (status, report) = machine.call("b", 3600);
    assert!(status == 1 && report.contains("3 parts failed: profile memcheck racecheck; "), "{report}");
    assert!(report.contains("FOUND:\n    ========= Invalid __global__ read\n"), "{report}");
    assert!(report.contains("The tests or the tool failed with status 1."), "{report}");
    // Where time runs out, what was under way is ended, and what follows is named.
    machine.tool("bin/ncu", "sleep 600");
    let (status, report) = machine.call("b", 2);
    assert!(status == 1 && report.contains("(profile: ENDED after "), "{report}");
    assert_eq!(report.matches("NOT RUN: no time was left.").count(), 2, "{report}");
}
