//! See `readers/safetensors.rs`.
#![no_main]

#[path = "../readers/safetensors.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reader::run(bytes));
