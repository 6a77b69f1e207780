//! Rows of whole samples.
//!
//! Which samples share a row does not change from epoch to epoch: they are packed once, longest first, each into the row
//! that it fills best. What changes is the order of the rows.

use crate::data::shard::{IGNORE, Tokens};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// What happens to a sample that is longer than a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlong {
    /// Its beginning is kept.
    #[default]
    Truncate,
    /// It is left out.
    Skip,
    /// The run is refused.
    Error,
}

/// What became of the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackingStats {
    /// Samples there are.
    pub samples: usize,
    /// Of which the end is left out, since they are longer than a row.
    pub truncated: usize,
    /// Left out since they are longer than a row.
    pub skipped: usize,
    /// Left out since what is learned in them lies behind the end of a row.
    pub cut: usize,
    /// Left out since nothing in them is learned.
    pub empty: usize,
    /// Rows.
    pub rows: usize,
    /// Tokens in the rows; what is missing to `rows` of the row's length is padding.
    pub tokens: u64,
    /// Targets that count.
    pub targets: u64,
}

/// Samples in rows. A sample of n tokens takes n - 1 places of its row: its last token is a target only.
#[derive(Clone, Debug)]
pub(crate) struct PackedRows {
    tokens: Tokens,
    sequence: usize,
    /// First token and places of each sample that is kept, row by row.
    placed: Vec<(usize, usize)>,
    /// Where each row begins in `placed`, and the end.
    rows: Vec<usize>,
    pub packing: PackingStats,
}

/// A sample that is longer than a row, where that is refused: which, and its tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OverlongSample {
    pub sample: usize,
    pub tokens: usize,
}

impl PackedRows {
    /// Packs the samples between `starts` (and the end) into rows of `sequence` places: several to a row if `share`.
    pub(crate) fn new(
        tokens: &Tokens,
        starts: &[usize],
        sequence: usize,
        share: bool,
        overlong: Overlong,
    ) -> Result<Self, OverlongSample> {
        assert!(sequence > 0, "a sequence of no tokens");
        let mut packing = PackingStats { samples: starts.len().saturating_sub(1), ..PackingStats::default() };
        let mut kept = Vec::new();
        for (sample, range) in starts.windows(2).enumerate() {
            let mut places = (range[1] - range[0]).saturating_sub(1);
            if places > sequence {
                match overlong {
                    Overlong::Error => return Err(OverlongSample { sample, tokens: places + 1 }),
                    Overlong::Skip => {
                        packing.skipped += 1;
                        continue;
                    }
                    Overlong::Truncate => packing.truncated += 1,
                }
            }
            let truncated = places > sequence;
            places = places.min(sequence);
            let targets = tokens.count_targets(range[0] + 1..range[0] + 1 + places);
            if targets == 0 {
                packing.truncated -= usize::from(truncated);
                match tokens.count_targets(range[0] + 1..range[1].max(range[0] + 1)) {
                    0 => packing.empty += 1,
                    _ => packing.cut += 1,
                }
                continue;
            }
            packing.targets += targets;
            packing.tokens += places as u64;
            kept.push((range[0], places));
        }
        let rows = if share { best_fit(&kept, sequence) } else { (0..kept.len()).map(|sample| vec![sample]).collect() };
        packing.rows = rows.len();
        let placed = rows.iter().flatten().map(|&sample| kept[sample]).collect();
        let mut at = 0;
        let rows = std::iter::once(0).chain(rows.iter().map(|row| {
            at += row.len();
            at
        }));
        Ok(PackedRows { tokens: tokens.clone(), sequence, placed, rows: rows.collect(), packing })
    }

    /// Rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() - 1
    }

    /// Writes a row: `inputs` and `targets` of the row's length; `segment_start`, empty or as long, gets where each token's sample
    /// begins. Padding is token 0, sees only itself, and has no target.
    pub(crate) fn fill(&self, row: usize, inputs: &mut [u32], targets: &mut [u32], segment_start: &mut [u32]) {
        let mut at = 0;
        for &(start, places) in &self.placed[self.rows[row]..self.rows[row + 1]] {
            self.tokens.read(start, &mut inputs[at..at + places]);
            self.tokens.read_targets(start + 1, &mut targets[at..at + places]);
            if !segment_start.is_empty() {
                segment_start[at..at + places].fill(at as u32);
            }
            at += places;
        }
        inputs[at..].fill(0);
        targets[at..].fill(IGNORE);
        if !segment_start.is_empty() {
            segment_start[at..].fill(at as u32);
        }
    }

    /// Targets that count in the rows of `range`.
    pub(crate) fn targets(&self, range: Range<usize>) -> u64 {
        let (mut inputs, mut targets) = (vec![0; self.sequence], vec![0; self.sequence]);
        let count = |row| {
            self.fill(row, &mut inputs, &mut targets, &mut []);
            targets.iter().filter(|target| **target != IGNORE).count() as u64
        };
        range.map(count).sum()
    }
}

/// Rows of samples, by their number: the longest first, each into the row with the least room that it fits into.
fn best_fit(samples: &[(usize, usize)], sequence: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&sample| (std::cmp::Reverse(samples[sample].1), sample));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows by the room that is left in them.
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for sample in order {
        let places = samples[sample].1;
        let fitting = open.range(places..).next().map(|(room, _)| *room);
        let (room, row) = match fitting {
            Some(room) => {
                let rows_of_room = open.get_mut(&room).expect("found just now");
                let row = rows_of_room.pop().expect("no entry is empty");
                if rows_of_room.is_empty() {
                    open.remove(&room);
                }
                (room, row)
            }
            None => {
                rows.push(Vec::new());
                (sequence, rows.len() - 1)
            }
        };
        rows[row].push(sample);
        if room > places {
            open.entry(room - places).or_default().push(row);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of these lengths, whose tokens count on through all of them; the second half of each is learned.
    fn samples(lengths: &[usize]) -> (Tokens, Vec<usize>) {
        let mut next = 0;
        let sample = |length: &usize| -> Vec<(u32, bool)> {
            (0..*length)
                .map(|i| {
                    next += 1;
                    (next, i >= length.div_ceil(2))
                })
                .collect()
        };
        let tokens = Tokens::from_samples(&lengths.iter().map(sample).collect::<Vec<_>>());
        let starts = tokens.samples();
        (tokens, starts)
    }

    fn pack(lengths: &[usize], sequence: usize, share: bool, overlong: Overlong) -> Result<PackedRows, OverlongSample> {
        let (tokens, starts) = samples(lengths);
        PackedRows::new(&tokens, &starts, sequence, share, overlong)
    }

    fn row(packed: &PackedRows, row: usize) -> [Vec<u32>; 3] {
        let [mut inputs, mut targets, mut first] = [(); 3].map(|()| vec![7; packed.sequence]);
        packed.fill(row, &mut inputs, &mut targets, &mut first);
        [inputs, targets, first]
    }

    #[test]
    fn a_row_holds_whole_samples_and_padding() {
        let packed = pack(&[3, 6, 4], 10, true, Overlong::Error).unwrap();
        assert_eq!(packed.len(), 1);
        let [inputs, targets, first] = row(&packed, 0);
        let none = IGNORE;
        // Longest first: 4 to 9, then 10 to 13, then 1 to 3.
        assert_eq!(inputs, [4, 5, 6, 7, 8, 10, 11, 12, 1, 2]);
        assert_eq!(targets, [none, none, 7, 8, 9, none, 12, 13, none, 3]);
        assert_eq!(first, [0, 0, 0, 0, 0, 5, 5, 5, 8, 8]);
        let [inputs, targets, first] = row(&pack(&[3], 5, true, Overlong::Error).unwrap(), 0);
        assert_eq!((inputs, first), (vec![1, 2, 0, 0, 0], vec![0, 0, 2, 2, 2]));
        assert_eq!(targets, [none, 3, none, none, none]);
    }

    #[test]
    fn every_sample_is_in_one_row_and_rows_are_nearly_full() {
        let lengths: Vec<usize> = (0..5000).map(|i| 3 + (i * i * 31 + i * 7) % 190).collect();
        let packed = pack(&lengths, 256, true, Overlong::Error).unwrap();
        let mut seen = Vec::new();
        for number in 0..packed.len() {
            let [inputs, _, first] = row(&packed, number);
            seen.extend(inputs.iter().zip(&first).filter(|(input, _)| **input != 0).map(|(input, _)| *input));
            assert!(first.is_sorted() && first.iter().enumerate().all(|(i, &at)| at as usize <= i));
        }
        seen.sort_unstable();
        let (tokens, starts) = samples(&lengths);
        let lasts: std::collections::HashSet<usize> = starts[1..].iter().map(|end| end - 1).collect();
        let inputs = tokens.to_vec().into_iter().enumerate().filter(|(i, _)| !lasts.contains(i));
        assert_eq!(seen, inputs.map(|(_, id)| id).collect::<Vec<_>>());
        let filled = packed.packing.tokens as f64 / (packed.len() * 256) as f64;
        assert!(filled > 0.98, "{filled}");
        assert_eq!(packed.packing.targets, packed.targets(0..packed.len()));
    }

    #[test]
    fn one_to_a_row_if_asked() {
        let packed = pack(&[3, 6, 4], 10, false, Overlong::Error).unwrap();
        assert_eq!(packed.len(), 3);
        assert_eq!(row(&packed, 2)[0], [10, 11, 12, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn long_samples_are_cut_left_out_or_refused() {
        // Ten tokens: of the first five targets two are learned.
        let cut = pack(&[10, 4], 6, true, Overlong::Truncate).unwrap();
        assert_eq!(row(&cut, 0)[1][3..], [IGNORE, 6, 7]);
        assert_eq!(
            cut.packing,
            PackingStats { samples: 2, truncated: 1, rows: 2, tokens: 9, targets: 4, ..PackingStats::default() }
        );
        let skipped = pack(&[10, 4], 6, true, Overlong::Skip).unwrap().packing;
        assert_eq!(
            skipped,
            PackingStats { samples: 2, skipped: 1, rows: 1, tokens: 3, targets: 2, ..PackingStats::default() }
        );
        assert_eq!(pack(&[4, 10], 6, true, Overlong::Error).unwrap_err(), OverlongSample { sample: 1, tokens: 10 });
        // Exactly a row: six inputs and one more target.
        assert_eq!(pack(&[7], 6, true, Overlong::Error).unwrap().packing.truncated, 0);
    }

    #[test]
    fn samples_with_nothing_to_learn_are_left_out_and_counted() {
        // A single token has no target; of the long one only the end is learned, which is cut off.
        let packed = pack(&[1, 40, 4], 6, true, Overlong::Truncate).unwrap();
        let PackingStats { empty, cut, truncated, rows, .. } = packed.packing;
        assert_eq!((empty, cut, truncated, rows), (1, 1, 0, 1));
        assert_eq!(pack(&[1], 6, true, Overlong::Truncate).unwrap().len(), 0);
    }
}
