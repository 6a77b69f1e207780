//! Validation rows: always the same, in the same order.

use super::check_shape;
use super::dataset::{Dataset, Source};
use super::packing::{PackedRows, PackingStats};
use super::shuffled::{copy_window, windows};
use crate::data::shard::Tokens;
use crate::error::{DataError, DataSet};

/// Consecutive windows that share no target, and rows of samples.
#[derive(Clone, Debug)]
pub struct Windows {
    parts: Vec<(Rows, usize)>,
    sequence: usize,
    targets: u64,
}

#[derive(Clone, Debug)]
enum Rows {
    Windows(Tokens),
    Packed(PackedRows),
}

impl Rows {
    fn fill(&self, row: usize, inputs: &mut [u32], targets: &mut [u32], segment_start: &mut [u32]) {
        match self {
            Rows::Windows(tokens) => {
                copy_window(tokens, row * inputs.len(), inputs, targets);
                segment_start.fill(0);
            }
            Rows::Packed(packed) => packed.fill(row, inputs, targets, segment_start),
        }
    }
}

impl Windows {
    /// The windows of `tokens`, the first `most` of them unless that is 0. Tokens that fill no window are left out.
    ///
    /// # Errors
    /// [`DataError::TooShort`] if there are not `sequence + 1` tokens.
    ///
    /// # Panics
    /// If `sequence` is 0.
    pub fn new(tokens: Tokens, sequence: usize, most: usize) -> Result<Self, DataError> {
        let part = Source { name: String::new(), weight: 1.0, dataset: Dataset::Text(tokens) };
        Self::of(&[part], sequence, most)
    }

    /// The rows of several sources one after the other, the first of each and `most` together unless that is 0.
    ///
    /// # Errors
    /// A text that is too short for one row, samples that are too long or none of which can be used.
    ///
    /// # Panics
    /// If `sequence` is 0 or there is no source.
    pub fn of(parts: &[Source], sequence: usize, most: usize) -> Result<Self, DataError> {
        assert!(!parts.is_empty(), "rows of nothing");
        let rows = |part: &Source| -> Result<(Rows, usize), DataError> {
            Ok(match &part.dataset {
                Dataset::Text(tokens) => {
                    (Rows::Windows(tokens.clone()), windows(tokens, sequence, DataSet::Validation)?)
                }
                Dataset::Samples(samples) => {
                    let packed = samples.pack(sequence, DataSet::Validation)?;
                    let rows = packed.len();
                    (Rows::Packed(packed), rows)
                }
            })
        };
        let mut parts = parts.iter().map(rows).collect::<Result<Vec<_>, _>>()?;
        let all: usize = parts.iter().map(|part| part.1).sum();
        if most != 0 && most < all {
            limit(&mut parts, most, all);
        }
        let targets = parts.iter().map(|(rows, count)| match rows {
            Rows::Windows(tokens) => tokens.count_targets(1..1 + count * sequence),
            Rows::Packed(packed) => packed.targets(0..*count),
        });
        let targets = targets.sum();
        Ok(Windows { parts, sequence, targets })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.1).sum()
    }

    /// Never: a text without a row is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Targets of all rows that count: what a summed loss is divided by.
    pub fn targets(&self) -> u64 {
        self.targets
    }

    /// How samples became rows, of each part that has some.
    pub fn packings(&self) -> impl Iterator<Item = &PackingStats> {
        self.parts.iter().filter_map(|(rows, _)| match rows {
            Rows::Windows(_) => None,
            Rows::Packed(packed) => Some(&packed.packing),
        })
    }

    /// Writes rows number `first`, `first + 1` and so on, in the shapes of [`super::Batches::fill`].
    ///
    /// # Panics
    /// If there are not so many rows, the slices differ in length or hold no whole number of sequences.
    pub fn fill(&self, first: usize, inputs: &mut [u32], targets: &mut [u32]) {
        self.fill_segments(first, inputs, targets, &mut []);
    }

    /// The same; `segment_start` as in [`super::Batches::fill_segments`].
    ///
    /// # Panics
    /// As [`Windows::fill`].
    pub fn fill_segments(&self, first: usize, inputs: &mut [u32], targets: &mut [u32], segment_start: &mut [u32]) {
        check_shape(self.sequence, inputs, targets, segment_start);
        for row in 0..inputs.len() / self.sequence {
            let part = row * self.sequence..(row + 1) * self.sequence;
            let segment_start = if segment_start.is_empty() { &mut [][..] } else { &mut segment_start[part.clone()] };
            let (rows, index) = self.find(first + row);
            rows.fill(index, &mut inputs[part.clone()], &mut targets[part], segment_start);
        }
    }

    /// The part that row number `row` is in, and where in it.
    fn find(&self, row: usize) -> (&Rows, usize) {
        let mut index = row;
        for (rows, count) in &self.parts {
            if index < *count {
                return (rows, index);
            }
            index -= count;
        }
        panic!("row {row} of {}", self.len());
    }
}

/// Leaves `most` rows of `all`, of each part as many as it has of all, at least one while there are enough.
fn limit(parts: &mut [(Rows, usize)], most: usize, all: usize) {
    let (mut left, mut seen) = (most, 0);
    let last = parts.len() - 1;
    for (i, (_, count)) in parts.iter_mut().enumerate() {
        seen += *count;
        // Rows that all parts up to this one get together.
        let share = (most as u128 * seen as u128 / all as u128) as usize;
        let wanted = if i == last { left } else { share.saturating_sub(most - left).max(1) };
        *count = wanted.min(left).min(*count);
        left -= *count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens that are their own positions.
    fn counted(len: u32) -> Tokens {
        Tokens::from_ids(&(0..len).collect::<Vec<_>>())
    }

    #[test]
    fn too_little_text_is_refused() {
        assert!(Windows::new(counted(0), 128, 0).is_err());
    }

    #[test]
    fn a_limit_is_shared_by_all_parts() {
        let part = |len| Source { name: String::new(), weight: 1.0, dataset: Dataset::Text(counted(len)) };
        let counts = |most| -> Vec<usize> {
            let windows = Windows::of(&[part(301), part(101), part(11)], 10, most).unwrap();
            assert_eq!(windows.len(), if most == 0 { 41 } else { most });
            windows.parts.iter().map(|part| part.1).collect()
        };
        assert_eq!((counts(0), counts(20), counts(3)), (vec![30, 10, 1], vec![14, 5, 1], vec![2, 1, 0]));
    }

    #[test]
    fn validation_windows_are_consecutive_and_their_targets_are_distinct() {
        let windows = Windows::new(counted(100), 9, 0).unwrap();
        assert_eq!((windows.len(), windows.targets()), (11, 99));
        let (mut inputs, mut targets) = (vec![0; 99], vec![0; 99]);
        windows.fill(0, &mut inputs, &mut targets);
        assert_eq!(inputs, (0..99).collect::<Vec<u32>>());
        assert_eq!(targets, (1..100).collect::<Vec<u32>>());
        assert_eq!(Windows::new(counted(100), 9, 4).unwrap().len(), 4);
        assert_eq!(Windows::new(counted(100), 9, 40).unwrap().len(), 11);
    }
}
