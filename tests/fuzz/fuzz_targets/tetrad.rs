//! Our own reader and verifier.
#![no_main]

use tetrad::format::File;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = File::parse(bytes) {
        file.verify();
    }
});
