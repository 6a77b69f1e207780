//! Which rows make up which step.
//!
//! A run is a position, the number of rows it has seen, and nothing else: from it follow the source of a row
//! ([`Mixture`]), the epoch of that source, and the row's place in the epoch's order.

use super::check_shape;
use super::dataset::{Dataset, Source};
use super::mixture::Mixture;
use super::packing::{PackedRows, PackingStats};
use super::permutation::{Permutation, mix};
use super::shuffled::ShuffledWindows;
use crate::data::shard::Tokens;
use crate::error::{DataError, DataSet};

/// Training rows in shuffled order.
#[derive(Clone, Debug)]
pub struct Batches {
    sources: Vec<SourceRows>,
    mixture: Mixture,
    sequence: usize,
}

/// What a run will see of one source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceStats {
    /// What it is called.
    pub name: String,
    /// Tokens of one epoch.
    pub tokens: u64,
    /// Rows of one epoch.
    pub rows: u64,
    /// Its share of all rows.
    pub share: f64,
    /// How its samples were packed, if it has samples.
    pub packing: Option<PackingStats>,
}

#[derive(Clone, Debug)]
struct SourceRows {
    name: String,
    rows: Rows,
}

#[derive(Clone, Debug)]
enum Rows {
    Windows(ShuffledWindows),
    Packed { packed: PackedRows, seed: u64 },
}

impl Rows {
    fn epoch(&self) -> u64 {
        match self {
            Rows::Windows(stream) => stream.epoch(),
            Rows::Packed { packed, .. } => packed.len() as u64,
        }
    }

    fn fill(&self, position: u64, inputs: &mut [u32], targets: &mut [u32], segment_start: &mut [u32]) {
        match self {
            Rows::Windows(stream) => {
                stream.fill(position, inputs, targets);
                segment_start.fill(0);
            }
            Rows::Packed { packed, seed } => {
                let (epoch, index) = (position / self.epoch(), position % self.epoch());
                let row = Permutation::new(self.epoch(), mix(mix(*seed) ^ epoch)).image(index);
                packed.fill(row as usize, inputs, targets, segment_start);
            }
        }
    }
}

impl Batches {
    /// Windows of `sequence` tokens, and the token after each of them, of one text.
    ///
    /// # Errors
    /// [`DataError::TooShort`] if there are not `sequence + 1` tokens.
    ///
    /// # Panics
    /// If `sequence` is 0.
    pub fn new(tokens: Tokens, sequence: usize, seed: u64) -> Result<Self, DataError> {
        let part = Source { name: String::new(), weight: 1.0, dataset: Dataset::Text(tokens) };
        Self::of(&[part], sequence, seed)
    }

    /// Rows of `sequence` tokens of several sources, mixed by their weights.
    ///
    /// # Errors
    /// A text that is too short for one row, samples that are too long or none of which can be used.
    ///
    /// # Panics
    /// If `sequence` is 0 or there is no source.
    pub fn of(parts: &[Source], sequence: usize, seed: u64) -> Result<Self, DataError> {
        let weights: Vec<f64> = parts.iter().map(|part| part.weight).collect();
        let rows = |(number, part): (usize, &Source)| {
            // Sources of equal length are not shuffled alike.
            let seed = if number == 0 { seed } else { mix(seed ^ mix(number as u64)) };
            let rows = match &part.dataset {
                Dataset::Text(tokens) => Rows::Windows(ShuffledWindows::new(tokens.clone(), sequence, seed)?),
                Dataset::Samples(samples) => Rows::Packed { packed: samples.pack(sequence, DataSet::Training)?, seed },
            };
            Ok(SourceRows { name: part.name.clone(), rows })
        };
        let sources = parts.iter().enumerate().map(rows).collect::<Result<_, DataError>>()?;
        Ok(Batches { sources, mixture: Mixture::new(&weights), sequence })
    }

    /// Rows of one epoch of the first source.
    pub fn epoch_samples(&self) -> u64 {
        self.sources[0].rows.epoch()
    }

    /// Rows of one epoch of all sources.
    pub fn rows(&self) -> u64 {
        self.sources.iter().map(|source| source.rows.epoch()).sum()
    }

    /// What a run will see of each source.
    pub fn shares(&self) -> Vec<SourceStats> {
        let share = |(number, source): (usize, &SourceRows)| {
            let (tokens, packing) = match &source.rows {
                Rows::Windows(stream) => (stream.tokens(), None),
                Rows::Packed { packed, .. } => (packed.packing.tokens, Some(packed.packing)),
            };
            let (name, rows) = (source.name.clone(), source.rows.epoch());
            SourceStats { name, tokens, rows, share: self.mixture.share(number), packing }
        };
        self.sources.iter().enumerate().map(share).collect()
    }

    /// Writes rows number `position`, `position + 1` and so on: `inputs` and `targets` are `[rows, sequence]`,
    /// row-major; each target is the token after its input, or [`crate::data::IGNORE`].
    ///
    /// # Panics
    /// If the slices differ in length or hold no whole number of sequences.
    pub fn fill(&self, position: u64, inputs: &mut [u32], targets: &mut [u32]) {
        self.fill_segments(position, inputs, targets, &mut []);
    }

    /// The same; `segment_start`, of the same shape or empty, gets where in its row each token's sample begins.
    ///
    /// # Panics
    /// As [`Batches::fill`].
    pub fn fill_segments(&self, position: u64, inputs: &mut [u32], targets: &mut [u32], segment_start: &mut [u32]) {
        check_shape(self.sequence, inputs, targets, segment_start);
        for row in 0..inputs.len() / self.sequence {
            let (source, index) = self.mixture.row(position.wrapping_add(row as u64));
            let part = row * self.sequence..(row + 1) * self.sequence;
            let segment_start = if segment_start.is_empty() { &mut [][..] } else { &mut segment_start[part.clone()] };
            self.sources[source].rows.fill(index, &mut inputs[part.clone()], &mut targets[part], segment_start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Tokens that are their own positions.
    fn counted(len: u32) -> Tokens {
        Tokens::from_ids(&(0..len).collect::<Vec<_>>())
    }

    fn sample(batches: &Batches, position: u64) -> Vec<u32> {
        let (mut inputs, mut targets) = (vec![0; batches.sequence], vec![0; batches.sequence]);
        batches.fill(position, &mut inputs, &mut targets);
        assert!(
            inputs.iter().zip(&targets).all(|(input, target)| input + 1 == *target),
            "targets are not shifted by one"
        );
        inputs
    }

    #[test]
    fn an_epoch_visits_every_window_once_and_leaves_out_less_than_two() {
        for (len, sequence) in [(1000u32, 7usize), (50, 7), (16, 7), (15, 7), (14, 7), (8, 7), (300, 1), (2, 1)] {
            let batches = Batches::new(counted(len), sequence, 5).unwrap();
            for epoch in 0..20 {
                let firsts = epoch * batches.epoch_samples()..(epoch + 1) * batches.epoch_samples();
                let seen: BTreeSet<u32> = firsts.clone().flat_map(|position| sample(&batches, position)).collect();
                assert_eq!(seen.len() as u64, batches.epoch_samples() * sequence as u64, "{len} tokens: a repeat");
                assert!(seen.len() + 2 * sequence > len as usize - 1, "{len} tokens: only {} inputs", seen.len());
            }
        }
    }

    #[test]
    fn every_token_is_a_target_in_some_epoch() {
        let batches = Batches::new(counted(61), 10, 5).unwrap();
        let seen: BTreeSet<u32> = (0..500).flat_map(|position| sample(&batches, position)).collect();
        assert_eq!(seen, (0..60).collect());
    }

    #[test]
    fn epochs_differ_and_seeds_differ() {
        let starts = |seed, epoch: u64| -> Vec<u32> {
            let batches = Batches::new(counted(1000), 10, seed).unwrap();
            let first = epoch * batches.epoch_samples();
            (first..first + 98).map(|position| sample(&batches, position)[0]).collect()
        };
        assert_ne!(starts(1, 0), starts(1, 1));
        assert_ne!(starts(1, 0), starts(2, 0));
        assert_eq!(starts(1, 3), starts(1, 3));
        assert!(!starts(1, 0).is_sorted(), "not shuffled");
    }

    #[test]
    fn a_batch_is_its_samples_wherever_it_begins() {
        let batches = Batches::new(counted(200), 8, 9).unwrap();
        for position in 0..100 {
            let (mut inputs, mut targets) = (vec![0; 5 * 8], vec![0; 5 * 8]);
            batches.fill(position, &mut inputs, &mut targets);
            let alone: Vec<u32> = (position..position + 5).flat_map(|position| sample(&batches, position)).collect();
            assert_eq!(inputs, alone);
        }
    }

    #[test]
    fn positions_near_the_end_of_u64_do_not_overflow() {
        let batches = Batches::new(counted(200), 8, u64::MAX).unwrap();
        assert_eq!(sample(&batches, u64::MAX).len(), 8);
    }

    #[test]
    fn text_shorter_than_a_window_is_refused_with_the_numbers() {
        let error = Batches::new(counted(128), 128, 1).unwrap_err().to_string();
        assert_eq!(error, "the training text: 128 tokens, and one sequence needs 129 (128 and the next token)");
        assert!(Batches::new(counted(129), 128, 1).is_ok());
    }
}
