//! The safetensors reader.

/// Reads bytes that may be anything; a panic is a fault of the reader.
pub fn run(bytes: &[u8]) {
    if let Ok(tensors) = tetrad::convert::safetensors::parse(bytes) {
        assert!(tensors.iter().all(|tensor| tensor.range.end <= bytes.len()));
    }
}
