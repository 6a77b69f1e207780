//! One source of a run: a text, or samples.

use super::packing::Packed;
use crate::config::Long;
use crate::data::shard::Tokens;
use crate::error::{DataError, DataSet};
use std::path::PathBuf;

/// One source.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is called in reports.
    pub name: String,
    /// Its share of the rows, relative to the weights of the others.
    pub weight: f64,
    /// What it holds.
    pub body: Body,
}

/// What a source holds.
#[derive(Clone, Debug)]
pub enum Body {
    /// A text, to be cut into windows.
    Stream(Tokens),
    /// Samples, to be kept whole.
    Samples(Samples),
}

impl Body {
    /// Its tokens.
    pub fn tokens(&self) -> &Tokens {
        match self {
            Body::Stream(tokens) => tokens,
            Body::Samples(samples) => &samples.tokens,
        }
    }

    /// The body without its last `fraction`, and that: tokens of a text, whole samples of others. Nothing in the tail is
    /// ever an input or a target of training.
    pub(crate) fn cut_tail(&self, fraction: f64) -> (Body, Body) {
        let cut = |len: usize| len.saturating_sub((len as f64 * fraction).round() as usize);
        match self {
            Body::Stream(tokens) => {
                let at = cut(tokens.len());
                (Body::Stream(tokens.slice(0..at)), Body::Stream(tokens.slice(at..tokens.len())))
            }
            Body::Samples(samples) => {
                let at = cut(samples.len());
                (Body::Samples(samples.slice(0, at)), Body::Samples(samples.slice(at, samples.len())))
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
    long: Long,
    /// Files with the number of samples up to their ends, for messages.
    files: Vec<(PathBuf, usize)>,
    /// Samples that were cut off before these.
    before: usize,
}

impl Samples {
    /// The samples that `tokens` has marks of; `files` with the number of tokens up to their ends.
    pub fn new(tokens: Tokens, share: bool, long: Long, files: &[(PathBuf, usize)]) -> Self {
        let starts = tokens.samples();
        let until = |end: &usize| starts.partition_point(|start| start < end);
        let files = files.iter().map(|(path, end)| (path.clone(), until(end))).collect();
        Samples { tokens, starts, share, long, files, before: 0 }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
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
    pub(crate) fn pack(&self, sequence: usize, set: DataSet) -> Result<Packed, DataError> {
        let packed = Packed::new(&self.tokens, &self.starts, sequence, self.share, self.long);
        let packed = packed.map_err(|long| {
            let number = self.before + long.sample;
            let file = self.files.iter().position(|(_, until)| number < *until).unwrap_or(0);
            let earlier = if file == 0 { 0 } else { self.files[file - 1].1 };
            let path = self.files.get(file).map(|(path, _)| path.clone()).unwrap_or_default();
            DataError::LongSample { path, number: number - earlier + 1, tokens: long.tokens, most: sequence + 1 }
        })?;
        if packed.len() == 0 {
            let found = packed.packing;
            return Err(DataError::NoSamples {
                set,
                samples: found.samples,
                long: found.skipped,
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
        let tokens = Body::Stream(Tokens::from_ids(&(0..1000).collect::<Vec<u32>>()));
        let (train, tail) = tokens.cut_tail(0.05);
        assert_eq!(train.tokens().to_vec(), (0..950).collect::<Vec<_>>());
        assert_eq!(tail.tokens().to_vec(), (950..1000).collect::<Vec<_>>());
    }

    #[test]
    fn no_fraction_leaves_everything_to_training() {
        let (train, tail) = Body::Stream(Tokens::from_ids(&[1, 2, 3])).cut_tail(0.0);
        assert_eq!((train.tokens().len(), tail.tokens().len()), (3, 0));
        let (train, tail) = Body::Stream(Tokens::from_ids(&[])).cut_tail(0.5);
        assert!(train.tokens().is_empty() && tail.tokens().is_empty());
    }

    fn three() -> Samples {
        let sample = |ids: &[u32]| ids.iter().map(|id| (*id, true)).collect::<Vec<_>>();
        let tokens = Tokens::from_samples(&[sample(&[1, 2]), sample(&[3, 4, 5]), sample(&[6, 7, 8, 9])]);
        Samples::new(tokens, true, Long::Error, &[("a".into(), 2), ("b".into(), 9)])
    }

    #[test]
    fn a_tail_of_samples_holds_whole_ones() {
        let (train, tail) = Body::Samples(three()).cut_tail(0.4);
        assert_eq!((train.tokens().to_vec(), tail.tokens().to_vec()), (vec![1, 2, 3, 4, 5], vec![6, 7, 8, 9]));
        let Body::Samples(tail) = tail else { panic!("samples") };
        assert_eq!((tail.len(), tail.starts.as_slice()), (1, &[0, 4][..]));
    }

    #[test]
    fn a_long_sample_is_named_by_its_file_and_its_number_in_it() {
        let error = three().pack(2, DataSet::Training).unwrap_err().to_string();
        assert!(error.starts_with("b: sample 2 has 4 tokens, and a row holds 3"), "{error}");
        let (_, tail) = Body::Samples(three()).cut_tail(0.4);
        let Body::Samples(tail) = tail else { panic!("samples") };
        let error = tail.pack(2, DataSet::Validation).unwrap_err().to_string();
        assert!(error.starts_with("b: sample 2 has 4 tokens"), "{error}");
    }
}
