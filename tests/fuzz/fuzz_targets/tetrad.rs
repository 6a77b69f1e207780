//! See `readers/tetrad.rs`.
#![no_main]

#[path = "../readers/tetrad.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reader::run(bytes));
