//! Which tokens make up which sample.
//!
//! One epoch visits windows of `sequence + 1` tokens that overlap by one token, each once, in an order that looks
//! random. The order is computed, not stored: window number `i` of an epoch is the image of `i` under a permutation
//! keyed by seed and epoch, so a run resumes anywhere with nothing but the number of samples it has seen. Each epoch
//! also shifts all windows by a random number of tokens, so that not the same sequences come back.

use super::Tokens;
use super::permutation::{Permutation, mix};
use crate::error::DataError;

/// Training samples in shuffled order.
#[derive(Clone, Debug)]
pub struct Batches {
    tokens: Tokens,
    sequence: usize,
    seed: u64,
    /// Windows of an epoch: the same for each, so that a position tells its epoch.
    windows: u64,
    /// Shifts of an epoch are below this.
    shifts: u64,
}

impl Batches {
    /// Samples of `sequence` tokens and the token after them.
    ///
    /// # Errors
    /// [`DataError::TooShort`] if there are not `sequence + 1` tokens.
    ///
    /// # Panics
    /// If `sequence` is 0.
    pub fn new(tokens: Tokens, sequence: usize, seed: u64) -> Result<Self, DataError> {
        let advice = "give more text in data.train or lower train.sequence";
        let most = windows(&tokens, sequence, "the training text", advice)?;
        // Where there are several windows, one fewer is visited, so that each epoch can shift by a sequence or more.
        let windows = most.saturating_sub(1).max(1);
        let shifts = (tokens.len() - windows * sequence) as u64;
        let windows = windows as u64;
        Ok(Batches { tokens, sequence, seed, windows, shifts })
    }

    /// Samples of one epoch.
    pub fn epoch_samples(&self) -> u64 {
        self.windows
    }

    /// Writes samples number `position`, `position + 1` and so on: `inputs` and `targets` are `[samples, sequence]`,
    /// row-major; each target is the token after its input.
    ///
    /// # Panics
    /// If the slices differ in length or hold no whole number of sequences.
    pub fn fill(&self, position: u64, inputs: &mut [u32], targets: &mut [u32]) {
        check_shape(self.sequence, inputs, targets);
        let rows = inputs.chunks_exact_mut(self.sequence).zip(targets.chunks_exact_mut(self.sequence));
        for (sample, (inputs, targets)) in rows.enumerate() {
            let start = self.start(position.wrapping_add(sample as u64));
            copy_window(&self.tokens, start, inputs, targets);
        }
    }

    /// The first token of sample number `position`.
    fn start(&self, position: u64) -> usize {
        let (epoch, index) = (position / self.windows, position % self.windows);
        let key = mix(mix(self.seed) ^ epoch);
        let shift = mix(key ^ 0x5349_4654) % self.shifts;
        let window = Permutation::new(self.windows, key).image(index);
        shift as usize + window as usize * self.sequence
    }
}

/// Validation samples: consecutive windows that share no target, always the same.
#[derive(Clone, Debug)]
pub struct Windows {
    tokens: Tokens,
    sequence: usize,
    count: usize,
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
        let advice = "give more text in data.validation or raise data.validation_fraction, or lower train.sequence";
        let all = windows(&tokens, sequence, "the validation text", advice)?;
        let count = if most == 0 { all } else { all.min(most) };
        Ok(Windows { tokens, sequence, count })
    }

    /// Number of windows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Never: a text without a window is refused.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Targets of all windows: what a summed loss is divided by.
    pub fn targets(&self) -> u64 {
        self.count as u64 * self.sequence as u64
    }

    /// Writes windows number `first`, `first + 1` and so on, in the shapes of [`Batches::fill`].
    ///
    /// # Panics
    /// If there are not so many windows, the slices differ in length or hold no whole number of sequences.
    pub fn fill(&self, first: usize, inputs: &mut [u32], targets: &mut [u32]) {
        check_shape(self.sequence, inputs, targets);
        let rows = inputs.chunks_exact_mut(self.sequence).zip(targets.chunks_exact_mut(self.sequence));
        for (row, (inputs, targets)) in rows.enumerate() {
            assert!(first + row < self.count, "window {} of {}", first + row, self.count);
            copy_window(&self.tokens, (first + row) * self.sequence, inputs, targets);
        }
    }
}

/// Windows in `tokens`, at least one.
fn windows(tokens: &Tokens, sequence: usize, what: &'static str, advice: &'static str) -> Result<usize, DataError> {
    assert!(sequence > 0, "a sequence of no tokens");
    match tokens.len().saturating_sub(1) / sequence {
        0 => Err(DataError::TooShort { what, tokens: tokens.len() as u64, needed: sequence as u64 + 1, advice }),
        windows => Ok(windows),
    }
}

fn check_shape(sequence: usize, inputs: &[u32], targets: &[u32]) {
    assert_eq!(inputs.len(), targets.len(), "inputs and targets");
    assert!(inputs.len().is_multiple_of(sequence), "{} inputs in sequences of {sequence}", inputs.len());
}

/// `sequence` tokens from `start` on as inputs, those one further as targets.
fn copy_window(tokens: &Tokens, start: usize, inputs: &mut [u32], targets: &mut [u32]) {
    let last = inputs.len() - 1;
    tokens.read(start, inputs);
    targets[..last].copy_from_slice(&inputs[1..]);
    tokens.read(start + inputs.len(), &mut targets[last..]);
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
        assert_eq!(
            error,
            "the training text: 128 tokens, and one sequence needs 129 (train.sequence = 128 and the next token); \
             give more text in data.train or lower train.sequence"
        );
        assert!(Batches::new(counted(129), 128, 1).is_ok());
        assert!(Windows::new(counted(0), 128, 0).is_err());
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
