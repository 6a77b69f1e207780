//! The safetensors reader.

use super::ended;

pub fn run(bytes: &[u8]) -> String {
    let outcome = tetrad::convert::safetensors::parse(bytes);
    if let Ok(tensors) = &outcome {
        assert!(tensors.iter().all(|tensor| tensor.range.end <= bytes.len()));
    }
    ended(outcome)
}
