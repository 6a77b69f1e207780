//! The safetensors reader.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(tensors) = tetrad::convert::safetensors::parse(bytes) {
        assert!(tensors.iter().all(|tensor| tensor.range.end <= bytes.len()));
    }
});
