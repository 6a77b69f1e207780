//! The devices that tests of the CUDA backend run on: always the emulated one, and a real one if there is one.
#![allow(dead_code)]

use tetrad::backend::cuda::{Gpu, Search, Source};
use tetrad::error::BackendError;
use tetrad::memory::{ALIGN, Place, Span};

/// The kernels of the emulator's own tests: what gpu.h offers, one by one.
pub const CHECKS: Source = Source { file: "checks.cu", text: include_str!("../emulator/kernels/checks.cu") };

/// Where the emulated libraries are, and no others.
pub fn emulated() -> Search {
    Search::only(&[tetrad_emulator::libraries().to_path_buf()])
}

/// Gives a device `bytes` bytes at offset 0, and behind them what it asks for itself.
pub fn allocate(gpu: &mut Gpu, bytes: usize) -> Result<(), BackendError> {
    let scratch = Span { place: Place::Arena, offset: bytes.next_multiple_of(ALIGN), bytes: Gpu::OWN_BYTES };
    gpu.allocate(scratch.offset + scratch.bytes, scratch)
}

/// The emulated device and, unless this machine has none, a real one, each with its name for messages. That there is
/// no real one is said, and is a failure where `TETRAD_REQUIRE_CUDA` is set.
pub fn devices(sources: &[Source]) -> Vec<(String, Gpu)> {
    let emulated = Gpu::open_with(0, &emulated(), sources).expect("the emulated device opens");
    let mut devices = vec![(emulated.name().to_owned(), emulated)];
    match real(sources) {
        Ok(gpu) => devices.push((gpu.name().to_owned(), gpu)),
        Err(error) => {
            assert!(std::env::var_os("TETRAD_REQUIRE_CUDA").is_none(), "TETRAD_REQUIRE_CUDA is set, but {error}");
            eprintln!("SKIPPED on a real device: {error}");
        }
    }
    devices
}

fn real(sources: &[Source]) -> Result<Gpu, BackendError> {
    Gpu::open_with(0, &Search::usual(), sources)
}
