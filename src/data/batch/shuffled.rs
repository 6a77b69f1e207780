//! Windows of a run of text, in an order that looks random.
//!
//! One epoch visits windows of `sequence + 1` tokens that overlap by one token, each once. The order is computed, not
//! stored: window number `i` of an epoch is the image of `i` under a permutation keyed by seed and epoch, so a run resumes
//! anywhere with nothing but the number of rows it has seen. Each epoch also shifts all windows by a random number of
//! tokens, so that not the same sequences come back.

use super::permutation::{Permutation, mix};
use crate::data::shard::Tokens;
use crate::error::{DataError, DataSet};

/// A text as shuffled windows.
#[derive(Clone, Debug)]
pub(crate) struct ShuffledWindows {
    tokens: Tokens,
    sequence: usize,
    seed: u64,
    /// Windows of an epoch: the same for each, so that a position tells its epoch.
    windows: u64,
    /// Shifts of an epoch are below this.
    shifts: u64,
}

impl ShuffledWindows {
    pub(crate) fn new(tokens: Tokens, sequence: usize, seed: u64) -> Result<Self, DataError> {
        let most = windows(&tokens, sequence, DataSet::Training)?;
        // Where there are several windows, one fewer is visited, so that each epoch can shift by a sequence or more.
        let windows = most.saturating_sub(1).max(1);
        let shifts = (tokens.len() - windows * sequence) as u64;
        let windows = windows as u64;
        Ok(ShuffledWindows { tokens, sequence, seed, windows, shifts })
    }

    /// Windows of one epoch.
    pub(crate) fn epoch(&self) -> u64 {
        self.windows
    }

    /// Tokens in all.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens.len() as u64
    }

    /// Writes window number `position`.
    pub(crate) fn fill(&self, position: u64, inputs: &mut [u32], targets: &mut [u32]) {
        copy_window(&self.tokens, self.start(position), inputs, targets);
    }

    /// The first token of window number `position`.
    fn start(&self, position: u64) -> usize {
        let (epoch, index) = (position / self.windows, position % self.windows);
        let key = mix(mix(self.seed) ^ epoch);
        let shift = mix(key ^ 0x5349_4654) % self.shifts;
        let window = Permutation::new(self.windows, key).image(index);
        shift as usize + window as usize * self.sequence
    }
}

/// Windows in `tokens`, at least one.
pub(crate) fn windows(tokens: &Tokens, sequence: usize, set: DataSet) -> Result<usize, DataError> {
    assert!(sequence > 0, "a sequence of no tokens");
    match tokens.len().saturating_sub(1) / sequence {
        0 => Err(DataError::TooShort { set, tokens: tokens.len() as u64, needed: sequence as u64 + 1 }),
        windows => Ok(windows),
    }
}

/// As many tokens as `inputs` holds from `start` on, those one further as targets.
pub(crate) fn copy_window(tokens: &Tokens, start: usize, inputs: &mut [u32], targets: &mut [u32]) {
    tokens.read(start, inputs);
    tokens.read_targets(start + 1, targets);
}
