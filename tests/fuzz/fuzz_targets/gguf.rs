//! See `readers/gguf.rs`.
#![no_main]

#[path = "../readers/gguf.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reader::run(bytes));
