//! What of a configuration follows from the text: the length of a row, the rows of a step, the number of steps.

use super::{Config, TrainConfig};
use crate::data::{Batches, Dataset, Prepared, Source, Texts, opening};
use crate::error::DataError;

/// Tokens of a step at most, and its rows: what keeps a processor busy without much memory.
const STEP_TOKENS: usize = 4096;
const MOST_ROWS: usize = 16;

/// Steps that an epoch is divided into at least, if there are as many rows: a step should not see a sample twice.
const EPOCH_STEPS: u64 = 8;

/// Rows of samples are at least so long, so that short ones share a row, and at most.
const SAMPLE_ROWS: [usize; 2] = [128, 2048];

/// Rows of a text, if there are `EPOCH_STEPS` of them; and the shortest.
const TEXT_ROWS: [usize; 2] = [512, 16];

impl Config {
    /// Sets what the first documents of the files decide: whether a row may hold several samples, and how text samples
    /// begin.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn look_at_files(&mut self) -> Result<(), DataError> {
        let texts = Texts::find(&self.data)?;
        self.data.shares_rows = texts.share_rows()?;
        self.data.opening = opening(&texts, &self.data, &self.tokenizer, &self.train.sample_prompt)?;
        Ok(())
    }

    /// Sets what `[train]` leaves to the text (see [`TrainConfig::is_open`]): `sequence` from the longest sample or the
    /// amount of text, `batch` from the number of rows, and `steps` and `warmup` from `epochs` or `tokens`. An epoch is as many
    /// rows as there are, of all sources together. The result is to be validated. Gives the rows.
    ///
    /// # Errors
    /// Text that is too short for one row.
    pub fn settle(&mut self, data: &Prepared) -> Result<Batches, DataError> {
        if self.train.sequence == 0 {
            self.train.sequence = sequence(&data.train, self.model.context);
        }
        let batches = data.batches(self.train.sequence, self.run.seed)?;
        if self.train.is_open() {
            self.train.settle(batches.rows());
        }
        Ok(batches)
    }

    /// The same shape of a step for text that is not known: rows of a long text.
    pub fn settle_shape(&mut self) {
        if self.train.sequence == 0 {
            self.train.sequence = TEXT_ROWS[0].min(self.model.context);
        }
        if self.train.batch == 0 {
            self.train.batch = batch(u64::MAX, self.train.sequence);
        }
    }
}

impl TrainConfig {
    /// The rest, once the rows of an epoch are known.
    fn settle(&mut self, rows: u64) {
        if self.batch == 0 {
            self.batch = batch(rows, self.sequence);
        }
        if self.steps > 0 {
            return;
        }
        self.steps = match self.tokens {
            // A step more for a rest of a billionth would be one for a rounding error.
            0 => ((self.epochs * rows as f64 / self.batch as f64 - 1e-9).ceil() as u64).max(1),
            tokens => tokens.div_ceil((self.batch * self.sequence) as u64),
        };
        self.settle_warmup();
        (self.epochs, self.tokens) = (0.0, 0);
    }
}

/// Tokens of a row.
fn sequence(sources: &[Source], context: usize) -> usize {
    let [shortest, longest] = SAMPLE_ROWS;
    let of = |source: &Source| match &source.dataset {
        Dataset::Samples(samples) => samples.longest().next_multiple_of(64).clamp(shortest, longest),
        Dataset::Text(tokens) => {
            let [mut row, least] = TEXT_ROWS;
            while row > least && ((tokens.len() / row) as u64) < EPOCH_STEPS {
                row /= 2;
            }
            row
        }
    };
    sources.iter().map(of).max().unwrap_or(shortest).min(context)
}

/// Rows of a step: a power of two.
fn batch(rows: u64, sequence: usize) -> usize {
    let most = (STEP_TOKENS / sequence).clamp(1, MOST_ROWS) as u64;
    let rows = most.min(rows / EPOCH_STEPS).max(1);
    1 << rows.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Overlong, Samples, Tokens};

    fn text(tokens: usize) -> Source {
        let dataset = Dataset::Text(Tokens::from_ids(&vec![1; tokens]));
        Source { name: String::new(), weight: 1.0, dataset }
    }

    fn samples(lengths: &[usize]) -> Source {
        let samples: Vec<_> = lengths.iter().map(|&length| vec![(1, true); length]).collect();
        let dataset = Samples::new(Tokens::from_samples(&samples), true, Overlong::Truncate, &[]);
        Source { name: String::new(), weight: 1.0, dataset: Dataset::Samples(dataset) }
    }

    #[test]
    fn rows_are_as_long_as_the_text_has_use_for() {
        assert_eq!(sequence(&[text(1_000_000)], 8192), 512);
        assert_eq!(sequence(&[text(1_000_000)], 256), 256);
        assert_eq!(sequence(&[text(1000)], 8192), 64, "eight steps of an epoch are left");
        assert_eq!(sequence(&[text(3)], 8192), 16);
        assert_eq!(sequence(&[samples(&[5, 58, 30])], 8192), 128);
        assert_eq!(sequence(&[samples(&[5, 300])], 8192), 320, "the longest is not cut");
        assert_eq!(sequence(&[samples(&[300]), text(1_000_000)], 8192), 512);
        assert_eq!(sequence(&[samples(&[9000])], 8192), 2048);
    }

    #[test]
    fn a_batch_leaves_several_steps_to_an_epoch() {
        assert_eq!([1, 15, 16, 27, 100, 1000].map(|rows| batch(rows, 128)), [1, 1, 2, 2, 8, 16]);
        assert_eq!([512, 2048, 8192].map(|sequence| batch(u64::MAX, sequence)), [8, 2, 1]);
    }

    #[test]
    fn steps_follow_from_epochs_or_tokens_and_the_warm_up_is_its_share() {
        let open = TrainConfig { steps: 0, batch: 4, sequence: 100, warmup: 0, ..TrainConfig::default() };
        let settled = |train: TrainConfig| {
            let mut train = train;
            train.settle(30);
            assert!(!train.is_open() && train.epochs == 0.0 && train.tokens == 0 && train.warmup_share == 0.0);
            (train.steps, train.warmup)
        };
        assert_eq!(settled(TrainConfig { epochs: 3.0, warmup_share: 0.1, ..open.clone() }), (23, 2));
        assert_eq!(settled(TrainConfig { epochs: 2.0, batch: 5, ..open.clone() }), (12, 0));
        assert_eq!(settled(TrainConfig { epochs: 1e-3, warmup: 1, ..open.clone() }), (1, 1));
        assert_eq!(settled(TrainConfig { tokens: 4001, ..open.clone() }), (11, 0));
        assert_eq!(settled(TrainConfig { epochs: 1.0, batch: 0, ..open }), (15, 0));
    }
}
