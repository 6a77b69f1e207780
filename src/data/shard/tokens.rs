//! A run of token ids, two or four bytes each, in a mapped shard or in memory. Tokens of samples are four bytes, of which
//! the two highest bits say where a sample begins and which tokens are learned.

use crate::store::Map;
use std::ops::Range;
use std::sync::Arc;

/// A target that does not count: of a token that is not learned, and of padding. Its value is the one that the loss of
/// [`crate::backend`] skips.
pub const IGNORE: u32 = u32::MAX;

/// In a token of samples: it is a target.
pub(super) const TARGET: u32 = 1 << 31;
/// It is the first of its sample.
pub(super) const START: u32 = 1 << 30;
/// The largest id that there is room for.
const LARGEST_ID: u32 = START - 1;

/// The tokens of a sample with their marks.
///
/// # Errors
/// An id that leaves no room for them.
pub(super) fn mark(ids: &[u32], loss_mask: &[bool]) -> Result<Vec<u32>, String> {
    if let Some(id) = ids.iter().find(|id| **id > LARGEST_ID) {
        return Err(format!("has the token id {id}, at most {LARGEST_ID} is possible"));
    }
    let starts = std::iter::once(START).chain(std::iter::repeat(0));
    let targets = loss_mask.iter().map(|target| if *target { TARGET } else { 0 });
    Ok(ids.iter().zip(targets).zip(starts).map(|((id, target), start)| id | target | start).collect())
}

/// Bytes of one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Two,
    Four,
    /// Four, with [`TARGET`] and [`START`].
    Marked,
}

impl Width {
    /// The narrowest width for ids below `vocab`.
    pub(super) fn of(vocab: u64) -> Self {
        if vocab <= 1 << 16 { Width::Two } else { Width::Four }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Width::Two => 2,
            Width::Four | Width::Marked => 4,
        }
    }

    /// Appends `ids` to `out`, little-endian.
    pub(super) fn write(self, ids: &[u32], out: &mut Vec<u8>) {
        match self {
            Width::Two => ids.iter().for_each(|id| out.extend((*id as u16).to_le_bytes())),
            Width::Four | Width::Marked => ids.iter().for_each(|id| out.extend(id.to_le_bytes())),
        }
    }

    /// Fills `out` from as many ids in `bytes`, marks included.
    pub(super) fn read(self, bytes: &[u8], out: &mut [u32]) {
        match self {
            Width::Two => {
                for (out, id) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *out = u32::from(u16::from_le_bytes([id[0], id[1]]));
                }
            }
            Width::Four | Width::Marked => {
                for (out, id) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *out = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
                }
            }
        }
    }
}

#[derive(Debug)]
pub(super) enum Bytes {
    Mapped(Map),
    Owned(Vec<u8>),
}

impl Bytes {
    pub(super) fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// A run of token ids. Cloning and slicing share the bytes.
#[derive(Clone, Debug)]
pub struct Tokens {
    bytes: Arc<Bytes>,
    width: Width,
    range: Range<usize>,
}

impl Tokens {
    /// Tokens in memory.
    pub fn from_ids(ids: &[u32]) -> Self {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        Width::Four.write(ids, &mut bytes);
        Tokens { bytes: Arc::new(Bytes::Owned(bytes)), width: Width::Four, range: 0..ids.len() }
    }

    /// Tokens of samples in memory: for each sample its ids and whether they are learned.
    ///
    /// # Panics
    /// If an id has one of the two highest bits.
    pub fn from_samples(samples: &[Vec<(u32, bool)>]) -> Self {
        let marked = |sample: &Vec<(u32, bool)>| {
            let (ids, loss_mask): (Vec<_>, Vec<_>) = sample.iter().copied().unzip();
            mark(&ids, &loss_mask).expect("ids below the marks")
        };
        let ids: Vec<u32> = samples.iter().flat_map(marked).collect();
        Tokens { width: Width::Marked, ..Tokens::from_ids(&ids) }
    }

    /// Where samples begin, and the end; nothing if the tokens have no marks.
    pub fn samples(&self) -> Vec<usize> {
        if !self.is_marked() {
            return Vec::new();
        }
        let mut starts = Vec::new();
        let mut buffer = [0; 4096];
        for at in (0..self.len()).step_by(buffer.len()) {
            let part = &mut buffer[..4096.min(self.len() - at)];
            self.read_marked(at, part);
            starts.extend(part.iter().enumerate().filter(|(_, id)| **id & START != 0).map(|(i, _)| at + i));
        }
        starts.push(self.len());
        starts
    }

    /// The first `len` ids of `bytes`, which hold at least that many.
    pub(super) fn new(bytes: Bytes, width: Width, len: usize) -> Self {
        assert!(len <= bytes.get().len() / width.bytes(), "{len} ids in {} bytes", bytes.get().len());
        Tokens { bytes: Arc::new(bytes), width, range: 0..len }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Fills `out` with the ids from `at` on.
    ///
    /// # Panics
    /// If fewer than `out.len()` ids follow.
    pub fn read(&self, at: usize, out: &mut [u32]) {
        self.read_marked(at, out);
        if self.width == Width::Marked {
            out.iter_mut().for_each(|id| *id &= LARGEST_ID);
        }
    }

    /// Fills `out` with the ids from `at` on as targets: [`IGNORE`] in place of tokens that are not learned.
    ///
    /// # Panics
    /// If fewer than `out.len()` ids follow.
    pub fn read_targets(&self, at: usize, out: &mut [u32]) {
        self.read_marked(at, out);
        if self.width == Width::Marked {
            out.iter_mut().for_each(|id| *id = if *id & TARGET != 0 { *id & LARGEST_ID } else { IGNORE });
        }
    }

    /// How many of the tokens in `range` are targets that count.
    ///
    /// # Panics
    /// If the range is not within the tokens.
    pub fn count_targets(&self, range: Range<usize>) -> u64 {
        if !self.is_marked() {
            return range.len() as u64;
        }
        let mut buffer = [0; 4096];
        let starts = range.clone().step_by(buffer.len());
        let targets = starts.map(|at| {
            let part = &mut buffer[..4096.min(range.end - at)];
            self.read_marked(at, part);
            part.iter().filter(|id| **id & TARGET != 0).count() as u64
        });
        targets.sum()
    }

    /// Whether some tokens may not be learned.
    fn is_marked(&self) -> bool {
        self.width == Width::Marked
    }

    /// The ids from `at` on with their marks.
    pub(super) fn read_marked(&self, at: usize, out: &mut [u32]) {
        let end = at.checked_add(out.len()).filter(|end| *end <= self.len());
        assert!(end.is_some(), "tokens {at}..+{} of {}", out.len(), self.len());
        let (from, width) = ((self.range.start + at) * self.width.bytes(), self.width.bytes());
        self.width.read(&self.bytes.get()[from..from + out.len() * width], out);
    }

    /// The tokens in `range`.
    ///
    /// # Panics
    /// If the range is not within the tokens.
    pub fn slice(&self, range: Range<usize>) -> Tokens {
        assert!(range.start <= range.end && range.end <= self.len(), "tokens {range:?} of {}", self.len());
        let range = self.range.start + range.start..self.range.start + range.end;
        Tokens { bytes: self.bytes.clone(), width: self.width, range }
    }

    /// All ids.
    pub fn to_vec(&self) -> Vec<u32> {
        let mut ids = vec![0; self.len()];
        self.read(0, &mut ids);
        ids
    }

    /// The largest id, found by reading all of them.
    pub fn largest(&self) -> Option<u32> {
        let mut buffer = [0; 4096];
        let starts = (0..self.len()).step_by(buffer.len());
        starts
            .filter_map(|at| {
                let part = &mut buffer[..4096.min(self.len() - at)];
                self.read(at, part);
                part.iter().copied().max()
            })
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_widths_give_back_what_was_written() {
        let ids: Vec<u32> = (0..10_000).map(|i| i * 6 % 65_536).collect();
        for width in [Width::Two, Width::Four] {
            let mut bytes = Vec::new();
            width.write(&ids, &mut bytes);
            assert_eq!(bytes.len(), ids.len() * width.bytes());
            let tokens = Tokens::new(Bytes::Owned(bytes), width, ids.len());
            assert_eq!(tokens.to_vec(), ids);
            assert_eq!(tokens.largest(), ids.iter().copied().max());
            assert_eq!(tokens.slice(100..9000).slice(1..3).to_vec(), ids[101..103]);
        }
    }

    #[test]
    fn a_vocabulary_that_needs_more_than_two_bytes_gets_four() {
        assert_eq!((Width::of(65_536), Width::of(65_537)), (Width::Two, Width::Four));
    }

    #[test]
    #[should_panic(expected = "tokens 8..+3 of 10")]
    fn reading_past_a_slice_does_not_reach_its_neighbour() {
        Tokens::from_ids(&[0; 20]).slice(0..10).read(8, &mut [0; 3]);
    }

    #[test]
    fn no_tokens_have_no_largest() {
        assert_eq!(Tokens::from_ids(&[]).largest(), None);
    }
}
