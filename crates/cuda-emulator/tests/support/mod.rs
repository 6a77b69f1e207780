//! The emulator with this crate's own kernels.

use cuda_emulator::Emulator;
use std::path::Path;
use std::sync::OnceLock;

/// Compiled when the first test asks for it.
pub fn emulator() -> &'static Emulator {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    EMULATOR.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-emulator");
        let kernels = [here.join("tests/kernels"), here.join("include")];
        Emulator::build(&[&kernels[0], &kernels[1]], &out).unwrap_or_else(|error| panic!("{error}"))
    })
}
