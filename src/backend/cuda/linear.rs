//! Products with a weight.

use crate::backend::{Weight, WeightKind};
use crate::config::Scheme;

/// The kernels trust the lengths of a weight's planes.
///
/// # Panics
/// If one does not fit the geometry.
pub(super) fn check(w: &Weight) {
    let g = w.geometry;
    let scales = if matches!(w.kind, WeightKind::Int8 | WeightKind::Int4) { 2 * g.groups() } else { 0 };
    let offsets = if w.kind == WeightKind::Int4 && w.scheme == Scheme::Asymmetric { scales } else { 0 };
    let data = match w.kind {
        WeightKind::F32 | WeightKind::Int4Simulated => 4 * g.len(),
        WeightKind::Bf16 => 2 * g.len(),
        WeightKind::Int8 => g.padded_len(),
        WeightKind::Int4 => g.nibble_bytes(),
    };
    assert_eq!(w.data.bytes, data, "bytes of a weight's data");
    assert!(w.scales.bytes == scales || scales == 0, "bytes of a weight's scales");
    assert!(w.offsets.bytes == offsets || offsets == 0, "bytes of a weight's offsets");
}
