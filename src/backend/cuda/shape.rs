//! What kernels that know the packed format are told of a weight.

use super::Gpu;
use crate::backend::{Weight, WeightKind};
use crate::config::Scheme;
use crate::nibble::{Geometry, RUN};
use zerocopy::{Immutable, IntoBytes};

/// Most threads past the end of a matrix, which have numbers too.
const SPARE: usize = 1024;

/// `Shape` in `kernels/runs.h`.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Shape {
    pub rows: u32,
    pub cols: u32,
    pub runs_per_row: u32,
    pub runs_per_group: u32,
    pub runs: u32,
    pub dense: u32,
}

impl Shape {
    /// # Panics
    /// If the matrix has nearly 2^32 runs or more.
    pub fn of(g: Geometry) -> Self {
        let fits = |n: usize| {
            assert!(n + SPARE <= u32::MAX as usize, "{n} runs of 32 elements: fewer than 2^32 can be numbered");
            n as u32
        };
        Self {
            rows: fits(g.rows),
            cols: fits(g.cols),
            runs_per_row: fits(g.padded_cols() / RUN),
            runs_per_group: fits(g.group / RUN),
            runs: fits(g.padded_len() / RUN),
            dense: u32::from(g.cols == g.padded_cols()),
        }
    }
}

/// `Weight` in `kernels/weights.h`.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Planes {
    data: u64,
    scales: u64,
    offsets: u64,
    kind: u32,
    reserved: u32,
}

impl Planes {
    pub fn of(gpu: &Gpu, w: &Weight) -> Self {
        check(w);
        let kind = match (w.kind, w.scheme) {
            (WeightKind::F32, _) => 0,
            (WeightKind::Bf16, _) => 1,
            (WeightKind::Int8, _) => 2,
            (WeightKind::Int4, _) => 3,
            (WeightKind::Int4Simulated, Scheme::Symmetric) => 4,
            (WeightKind::Int4Simulated, Scheme::Asymmetric) => 5,
        };
        let offsets = if has_offsets(w) { gpu.address(w.offsets) } else { 0 };
        Self { data: gpu.address(w.data), scales: gpu.address(w.scales), offsets, kind, reserved: 0 }
    }
}

/// Whether groups have offsets of their own.
pub(super) fn has_offsets(w: &Weight) -> bool {
    w.kind == WeightKind::Int4 && w.scheme == Scheme::Asymmetric
}

/// The kernels trust the lengths of a weight's planes.
///
/// # Panics
/// If one does not fit the geometry.
pub(super) fn check(w: &Weight) {
    let g = w.geometry;
    let packed = matches!(w.kind, WeightKind::Int8 | WeightKind::Int4);
    let data = match w.kind {
        WeightKind::F32 | WeightKind::Int4Simulated => 4 * g.len(),
        WeightKind::Bf16 => 2 * g.len(),
        WeightKind::Int8 => g.padded_len(),
        WeightKind::Int4 => g.nibble_bytes(),
    };
    assert_eq!(w.data.bytes, data, "bytes of a weight's data");
    assert!(!packed || w.scales.bytes == 2 * g.groups(), "bytes of a weight's scales");
    assert!(!has_offsets(w) || w.offsets.bytes == 2 * g.groups(), "bytes of a weight's offsets");
}
