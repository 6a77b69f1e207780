//! The devices that tests of the CUDA backend run on: the emulated one and a real one if there is one, or by
//! `TETRAD_REQUIRE_CUDA=1` the real one alone: the emulator is not where such a test was carried. The test program `ptx` has
//! the emulated one alone, which runs NVRTC's PTX there.

use super::interpreted;
use cuda_emulator::Emulator;
use std::path::Path;
use std::sync::OnceLock;
use tetrad::backend::cuda::{Args, Cuda, Gpu, Search, Source};
use tetrad::error::BackendError;
use tetrad::memory::{ALIGN, Place, Span};

/// Kernels of the tests: what gpu.h offers, one by one.
pub const CHECKS: Source = Source { file: "checks.cu", text: include_str!("../cuda/kernels/checks.cu") };
/// The update's roots and quotients beside the device's own.
pub const EXACT: Source = Source { file: "exact.cu", text: include_str!("../cuda/kernels/exact.cu") };

/// The emulator with the program's kernels and those of the tests, compiled when the first test asks for it.
pub fn emulator() -> &'static Emulator {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    let emulator = EMULATOR.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
        let kernels = ["src/backend/cuda/kernels", "tests/cuda/kernels"].map(|folder| here.join(folder));
        Emulator::build(&[&kernels[0], &kernels[1]], &out).unwrap_or_else(|error| panic!("{error}"))
    });
    interpreted::attach(emulator);
    emulator
}

/// Where the emulated libraries are, and no others.
pub fn emulated() -> Search {
    // SAFETY: the emulator's libraries have the interfaces of those they stand for.
    unsafe { Search::only(&[emulator().libraries().to_path_buf()]) }
}

/// Whether only the machine's own device counts, and its absence is a failure.
pub fn required() -> bool {
    std::env::var("TETRAD_REQUIRE_CUDA").is_ok_and(|value| value == "1")
}

/// Gives a device `bytes` bytes at offset 0, and behind them what it asks for itself.
pub fn allocate(gpu: &mut Gpu, bytes: usize) -> Result<(), BackendError> {
    let scratch = Span { place: Place::Arena, offset: bytes.next_multiple_of(ALIGN), bytes: Gpu::OWN_BYTES };
    gpu.allocate(scratch.offset + scratch.bytes, scratch)
}

/// The emulated device and, unless this machine has none, a real one, each with its name for messages. That there is
/// no real one is said, and is a failure where `TETRAD_REQUIRE_CUDA=1`.
pub fn devices(sources: &[Source]) -> Vec<(String, Gpu)> {
    let mut devices = Vec::new();
    if !required() {
        let emulated = Gpu::open_with(0, &emulated(), sources).expect("the emulated device opens");
        devices.push((emulated.name().to_owned(), emulated));
    }
    if interpreted::wanted() {
        return devices;
    }
    match real(sources) {
        Ok(gpu) => devices.push((gpu.name().to_owned(), gpu)),
        Err(error) if required() => panic!("TETRAD_REQUIRE_CUDA=1, but {error}"),
        Err(error) => eprintln!("SKIPPED on a real device: {error}"),
    }
    devices
}

/// The same devices with the kernels of the program.
pub fn open_all() -> Vec<(String, Cuda)> {
    let mut devices = Vec::new();
    if !required() {
        let emulated = Cuda::open_with(0, &emulated()).expect("the emulated device opens");
        devices.push((emulated.name().to_owned(), emulated));
    }
    if interpreted::wanted() {
        return devices;
    }
    match Cuda::open(0) {
        Ok(cuda) => devices.push((cuda.name().to_owned(), cuda)),
        Err(error) if required() => panic!("TETRAD_REQUIRE_CUDA=1, but {error}"),
        Err(error) => eprintln!("SKIPPED on a real device: {error}"),
    }
    devices
}

/// The order in which emulated threads take turns; a real device has its own.
pub fn set_order(order: u32) {
    if !required() {
        emulator().set_order(order);
    }
}

/// Whether the emulator's streams work as soon as they may, or as late; a real device has its own ways.
pub fn set_eager(eager: bool) {
    if !required() {
        emulator().set_eager(eager);
    }
}

/// Does `work`, during which the emulator does or does not check every access of this thread's kernels to memory. That
/// takes as long again as the kernels do: tests of many steps check the first few, and the rest are the same launches.
pub fn checked<T>(checked: bool, work: impl FnOnce() -> T) -> T {
    if required() {
        return work();
    }
    emulator().set_checked(checked);
    let done = work();
    emulator().set_checked(true);
    done
}

fn real(sources: &[Source]) -> Result<Gpu, BackendError> {
    Gpu::open_with(0, &Search::usual(), sources)
}

/// Launches a kernel of [`CHECKS`] or of a test's own.
pub fn launch(gpu: &mut Gpu, kernel: &'static str, grid: [u32; 3], threads: u32, shared: usize, args: &Args) {
    // SAFETY: tests give kernels their parameters and spans of the sizes that they access. Those that do not run on the
    // emulated device alone, which reports what is wrong and touches nothing.
    unsafe { gpu.launch(kernel, grid, threads, shared, args) }
}

/// A device without memory: the emulated one, or the machine's own where `TETRAD_REQUIRE_CUDA=1` asks for it.
pub fn open() -> Cuda {
    let search = if required() { Search::usual() } else { emulated() };
    Cuda::open_with(0, &search).expect("the emulated device, or with TETRAD_REQUIRE_CUDA=1 the machine's own, opens")
}

/// Orders in which the emulated threads of a block take turns. A real device has its own. Interpreted, warps take turns
/// from the first to the last and from the last to the first: their threads run side by side.
pub fn orders() -> impl Iterator<Item = u32> {
    0..if required() {
        1
    } else if interpreted::wanted() {
        2
    } else {
        4
    }
}
