//! What NVRTC makes for older devices. The kernels do not ask for the architecture, but for those of eight-bit floats, which are not
//! for such devices; but NVRTC makes other registers and other loads of the same source each time, so what it makes for sm_80 is
//! run, not compared.

use crate::harness::gpu::{CHECKS, emulated, emulator};
use crate::harness::interpreted;
use std::process::Command;
use tetrad::backend::cuda::Gpu;

/// The architecture of the emulated device.
const CAPABILITY: &str = "CUDA_EMULATOR_CAPABILITY";

/// Parts of the names of tests that come to most kernels within seconds.
const TESTS: [&str; 9] = [
    "ampere::the_code_is_for",
    "attention::few_queries",
    "attention::heads_of_all_widths",
    "bytes::products_of_several_tiles",
    "conformance::",
    "instructions::",
    "matmul::",
    "optimizer::rows_of_whole_groups",
    "linear::products_with_weights_in_panels",
];

#[test]
fn the_code_is_for_the_device_that_the_driver_shows() {
    let Some(device) = interpreted::attach(emulator()) else { return };
    Gpu::open_with(0, &emulated(), &[CHECKS]).expect("the emulated device opens");
    let text = device.text(CHECKS.file).expect("it was compiled");
    let wanted = if std::env::var(CAPABILITY).is_ok_and(|text| text == "8.0") { "sm_80" } else { "sm_90a" };
    assert!(text.lines().any(|line| line == format!(".target {wanted}")), "not for {wanted}");
}

#[test]
fn what_is_compiled_for_sm_80_computes_the_same() {
    if interpreted::attach(emulator()).is_none() {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(TESTS).env(CAPABILITY, "8.0").output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "for sm_80:\n{}", said.concat());
    // Two of them are nine and two tests.
    assert!(said[0].contains("test result: ok. 18 passed"), "other tests than these ran:\n{}", said[0]);
}
