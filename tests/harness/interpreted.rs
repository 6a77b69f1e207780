//! The test program `ptx` is `cuda` again, on the PTX that NVRTC makes of the kernels in place of the emulator's own: the
//! same driver, the same operations, the same comparisons with the CPU, in fewer orders.

use super::mutations;
use cuda_emulator::Emulator;
use ptx_interpreter::{Compiler, Device, Rewrite};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The variable that names a mutation of the PTX (see [`mutations`]).
pub const MUTATION: &str = "TETRAD_PTX_MUTATION";
/// Of the disturbance of approximations.
const SEED: u64 = 18;

/// Whether this is that program.
pub fn wanted() -> bool {
    env!("CARGO_CRATE_NAME") == "ptx"
}

/// The library of NVRTC that tests/setup.sh installed, or that a folder of `TETRAD_CUDA_LIBRARIES` holds.
pub fn library() -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/nvidia/cu13/lib");
    let named = std::env::var_os("TETRAD_CUDA_LIBRARIES").unwrap_or_default();
    let folders = std::env::split_paths(&named).chain([installed]);
    folders.map(|folder| folder.join("libnvrtc.so.13")).find(|file| file.exists())
}

/// What this process runs PTX with; nothing in other test programs, and where there is no NVRTC, which is said, and is a
/// failure where it is demanded: what runs then is what `cuda` runs.
pub fn attach(emulator: &'static Emulator) -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<&'static Device>> = OnceLock::new();
    if !wanted() {
        return None;
    }
    *DEVICE.get_or_init(|| {
        let Some(library) = library() else {
            assert!(
                std::env::var_os("TETRAD_REQUIRE_NVRTC").is_none(),
                "there is no NVRTC: tests/setup.sh installs it"
            );
            eprintln!("SKIPPED: no PTX is interpreted, there is no NVRTC; the emulator's own kernels run instead");
            return None;
        };
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ptx");
        let compiler = Compiler::new(library, folder, child);
        Some(Device::attach(emulator, compiler, Some(SEED), rewrite()))
    })
}

/// This program again, to compile something.
fn child() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "compiles_for_its_other_tests", "--nocapture"]);
    command
}

/// The mutation that the variable names; that it changed something is said.
fn rewrite() -> Option<Rewrite> {
    let name = std::env::var(MUTATION).ok()?;
    let mutation = mutations::ALL.iter().find(|mutation| mutation.name == name);
    let mutation = mutation.unwrap_or_else(|| panic!("there is no mutation {name}"));
    Some(Box::new(move |file, text| {
        if file != mutation.file {
            return Ok(text);
        }
        let (text, places) = mutation.applied(&text);
        eprintln!("{}{places} places of {file}", mutations::CHANGED);
        if places > 0 { Ok(text) } else { Err(format!("{name} changes nothing in {file}")) }
    }))
}
