//! The reader that `TETRAD_FUZZ_READER` names; see `readers/mod.rs`.
#![no_main]

#[path = "../readers/mod.rs"]
mod readers;

use readers::Reader;
use std::sync::LazyLock;

static READER: LazyLock<&Reader> = LazyLock::new(|| {
    let name = std::env::var("TETRAD_FUZZ_READER").expect("TETRAD_FUZZ_READER names a reader");
    Reader::named(&name).expect("a reader of that name")
});

/// The files that fuzzing begins with are written to a folder by `run.sh`'s first call.
fn corpus() {
    if let Some(folder) = std::env::var_os("TETRAD_FUZZ_CORPUS") {
        for (number, input) in READER.corpus().iter().enumerate() {
            std::fs::write(std::path::Path::new(&folder).join(format!("{number:03}")), input).unwrap();
        }
        std::process::exit(0);
    }
}

libfuzzer_sys::fuzz_target!(init: corpus(), |bytes: &[u8]| {
    (READER.run)(bytes);
});
