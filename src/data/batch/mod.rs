//! Token ids as rows: windows of a text or whole samples, mixed, shuffled and packed.

mod dataset;
mod mixture;
mod packing;
mod permutation;
mod shuffled;
mod train;
mod validation;

pub use dataset::{Dataset, Samples, Source};
pub use packing::{Overlong, PackingStats};
pub use train::{Batches, SourceStats};
pub use validation::Windows;

/// Slices of a batch fit together and hold whole rows.
fn check_shape(sequence: usize, inputs: &[u32], targets: &[u32], segment_start: &[u32]) {
    assert_eq!(inputs.len(), targets.len(), "inputs and targets");
    assert!(
        segment_start.is_empty() || segment_start.len() == inputs.len(),
        "{} beginnings of {}",
        segment_start.len(),
        inputs.len()
    );
    assert!(inputs.len().is_multiple_of(sequence), "{} inputs in sequences of {sequence}", inputs.len());
}
