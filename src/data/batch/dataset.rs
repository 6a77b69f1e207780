//! One source of a run: a text, or samples.

use super::packing::Overlong;
use super::packing::PackedRows;
use crate::data::shard::Tokens;
use crate::error::{DataError, DataSet};
use std::path::PathBuf;

/// One source.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is called in reports.
    pub name: String,
    /// Its share of the rows, relative to the weights of the others.
    pub weight: f64,
    /// What it holds.
    pub dataset: Dataset,
}

/// What a source holds.
#[derive(Clone, Debug)]
pub enum Dataset {
    /// A text, to be cut into windows.
    Text(Tokens),
    /// Samples, to be kept whole.
    Samples(Samples),
}

impl Dataset {
    /// Its tokens.
    pub fn tokens(&self) -> &Tokens {
        match self {
            Dataset::Text(tokens) => tokens,
            Dataset::Samples(samples) => &samples.tokens,
        }
    }

    /// The dataset without its last `fraction`, and that: tokens of a text, whole samples of others. Nothing in the tail is
    /// ever an input or a target of training.
    pub(crate) fn split_tail(&self, fraction: f64) -> (Dataset, Dataset) {
        let cut = |len: usize| len.saturating_sub((len as f64 * fraction).round() as usize);
        match self {
            Dataset::Text(tokens) => {
                let at = cut(tokens.len());
                (Dataset::Text(tokens.slice(0..at)), Dataset::Text(tokens.slice(at..tokens.len())))
            }
            Dataset::Samples(samples) => {
                let at = cut(samples.len());
                (Dataset::Samples(samples.slice(0, at)), Dataset::Samples(samples.slice(at, samples.len())))
            }
        }
    }
}

/// Samples one after another.
#[derive(Clone, Debug)]
pub struct Samples {
    tokens: Tokens,
    /// Where each begins, and the end.
    starts: Vec<usize>,
    /// Whether several may share a row.
    share: bool,
    overlong: Overlong,
    /// Files with the number of samples up to their ends, for messages.
    files: Vec<(PathBuf, usize)>,
    /// Samples that were cut off before these.
    before: usize,
}

impl Samples {
    /// The samples that `tokens` has marks of; `files` with the number of tokens up to their ends.
    pub fn new(tokens: Tokens, share: bool, overlong: Overlong, files: &[(PathBuf, usize)]) -> Self {
        let starts = tokens.samples();
        let until = |end: &usize| starts.partition_point(|start| start < end);
        let files = files.iter().map(|(path, end)| (path.clone(), until(end))).collect();
        Samples { tokens, starts, share, overlong, files, before: 0 }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Places that the longest takes in a row.
    pub fn longest(&self) -> usize {
        self.starts.windows(2).map(|ends| (ends[1] - ends[0]).saturating_sub(1)).max().unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slice(&self, from: usize, to: usize) -> Samples {
        let starts = self.starts.get(from..=to).unwrap_or_default();
        let (begin, end) = (starts.first().copied().unwrap_or(0), starts.last().copied().unwrap_or(0));
        Samples {
            tokens: self.tokens.slice(begin..end),
            starts: starts.iter().map(|start| start - begin).collect(),
            before: self.before + from,
            ..self.clone()
        }
    }

    /// Rows of them.
    pub(crate) fn pack(&self, sequence: usize, set: DataSet) -> Result<PackedRows, DataError> {
        let packed = PackedRows::new(&self.tokens, &self.starts, sequence, self.share, self.overlong);
        let packed = packed.map_err(|long| {
            let number = self.before + long.sample;
            let file = self.files.iter().position(|(_, until)| number < *until).unwrap_or(0);
            let earlier = if file == 0 { 0 } else { self.files[file - 1].1 };
            let path = self.files.get(file).map(|(path, _)| path.clone()).unwrap_or_default();
            DataError::OverlongSample { path, number: number - earlier + 1, tokens: long.tokens, most: sequence + 1 }
        })?;
        if packed.len() == 0 {
            let found = packed.packing;
            return Err(DataError::NoSamples {
                set,
                samples: found.samples,
                long: found.skipped,
                cut: found.cut,
                empty: found.empty,
                sequence,
            });
        }
        Ok(packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_and_the_rest_share_no_token() {
        let tokens = Dataset::Text(Tokens::from_ids(&(0..1000).collect::<Vec<u32>>()));
        let (train, tail) = tokens.split_tail(0.05);
        assert_eq!(train.tokens().to_vec(), (0..950).collect::<Vec<_>>());
        assert_eq!(tail.tokens().to_vec(), (950..1000).collect::<Vec<_>>());
    }

    #[test]
    fn no_fraction_leaves_everything_to_training() {
        let (train, tail) = Dataset::Text(Tokens::from_ids(&[1, 2, 3])).split_tail(0.0);
        assert_eq!((train.tokens().len(), tail.tokens().len()), (3, 0));
        let (train, tail) = Dataset::Text(Tokens::from_ids(&[])).split_tail(0.5);
        assert!(train.tokens().is_empty() && tail.tokens().is_empty());
    }

    fn three() -> Samples {
        let sample = |ids: &[u32]| ids.iter().map(|id| (*id, true)).collect::<Vec<_>>();
        let tokens = Tokens::from_samples(&[sample(&[1, 2]), sample(&[3, 4, 5]), sample(&[6, 7, 8, 9])]);
        Samples::new(tokens, true, Overlong::Error, &[("a".into(), 2), ("b".into(), 9)])
    }

    #[test]
    fn a_tail_of_samples_holds_whole_ones() {
        let (train, tail) = Dataset::Samples(three()).split_tail(0.4);
        assert_eq!((train.tokens().to_vec(), tail.tokens().to_vec()), (vec![1, 2, 3, 4, 5], vec![6, 7, 8, 9]));
        let Dataset::Samples(tail) = tail else { panic!("samples") };
        assert_eq!((tail.len(), tail.starts.as_slice()), (1, &[0, 4][..]));
    }

    #[test]
    fn a_long_sample_is_named_by_its_file_and_its_number_in_it() {
        let error = three().pack(2, DataSet::Training).unwrap_err().to_string();
        assert!(error.starts_with("b: sample 2 has 4 tokens, and a row holds 3"), "{error}");
        let (_, tail) = Dataset::Samples(three()).split_tail(0.4);
        let Dataset::Samples(tail) = tail else { panic!("samples") };
        let error = tail.pack(2, DataSet::Validation).unwrap_err().to_string();
        assert!(error.starts_with("b: sample 2 has 4 tokens"), "{error}");
    }
}
