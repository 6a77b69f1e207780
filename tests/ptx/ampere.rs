//! What NVRTC makes for older devices.

use crate::harness::gpu::{CHECKS, emulated, emulator};
use crate::harness::interpreted;
use std::collections::BTreeMap;
use std::process::Command;
use tetrad::backend::cuda::{Gpu, SOURCES, Source};

/// Comes before a source's digest.
const DIGEST: &str = "DIGEST ";
/// The architecture of the emulated device.
const CAPABILITY: &str = "CUDA_EMULATOR_CAPABILITY";

fn this_program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command
}

/// Digests of the PTX of all sources, without the line that names the architecture.
fn digests() -> Option<BTreeMap<String, String>> {
    let device = interpreted::attach(emulator())?;
    let all: Vec<Source> = SOURCES.iter().copied().chain([CHECKS]).collect();
    Gpu::open_with(0, &emulated(), &all).expect("the emulated device opens");
    let digest = |source: &Source| {
        let text = device.text(source.file).expect("it was compiled");
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(".target")).collect();
        (source.file.to_owned(), format!("{:032x}", xxhash_rust::xxh3::xxh3_128(kept.join("\n").as_bytes())))
    };
    Some(all.iter().map(digest).collect())
}

/// The work of the other test's process, of which an architecture was asked for.
#[test]
fn digests_are_told() {
    if std::env::var_os(CAPABILITY).is_none() {
        return;
    }
    for (file, digest) in digests().unwrap_or_default() {
        println!("\n{DIGEST}{file} {digest}");
    }
}

/// So what the other tests run, for sm_90a, is what an older device runs. A source that this names some day needs its tests run
/// with this variable too.
#[test]
fn code_for_sm_80_is_that_for_sm_90a() {
    let Some(hopper) = digests() else { return };
    let output = this_program("ampere::digests_are_told").env(CAPABILITY, "8.0").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = said.lines().filter_map(|line| line.strip_prefix(DIGEST)?.split_once(' '));
    let ampere: BTreeMap<String, String> = lines.map(|(file, digest)| (file.into(), digest.into())).collect();
    assert_eq!(ampere.len(), hopper.len(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let different: Vec<&String> = hopper.keys().filter(|file| hopper[*file] != ampere[*file]).collect();
    assert!(different.is_empty(), "NVRTC makes other code for sm_80 of {different:?}");
}
