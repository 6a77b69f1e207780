//! `[data]` and `[tokenizer]`: where the text comes from, and how it becomes tokens and rows.

use super::batch::Overlong;
use super::opening::Opening;
use crate::error::{Problem, Problems, number};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Most sources of a run: the schedule of a mixture repeats after a few thousand rows, of which each has some.
const MOST_SOURCES: usize = 256;

/// `[data]`: where the text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Files and globs to train on (see [`super::InputKind`]); empty: `source`, or else the corpus bundled in the program.
    pub train: Vec<String>,
    /// Several sources with weights, in place of `train`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<SourceConfig>,
    /// Files and globs to validate on; empty: the tail of the training text, cut off before training.
    pub validation: Vec<String>,
    /// Share of the tokens cut off for validation when `validation` is empty.
    pub validation_fraction: f64,
    /// How documents become rows.
    #[serde(skip_serializing_if = "is_default")]
    pub packing: Packing,
    /// What happens to a sample that is longer than a row.
    #[serde(skip_serializing_if = "is_default")]
    pub overlong: Overlong,
    /// The chat template of `messages`: a file, or the template itself; absent: the one that came with the tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Folder of prepared token shards.
    pub cache: PathBuf,
    /// Whether a row may hold several samples, each attending to itself alone. Not a key: the files decide.
    #[serde(skip)]
    pub shares_rows: bool,
    /// How text samples begin, if the files decide that. Not a key.
    #[serde(skip)]
    pub opening: Option<Opening>,
}

/// One entry of `[[data.source]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Files and globs.
    pub files: Vec<String>,
    /// Its share of the rows, relative to the other sources' weights.
    #[serde(default = "one")]
    pub weight: f64,
}

/// `[tokenizer]`: how text becomes tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerSettings {
    /// A Hugging Face `tokenizer.json`; absent: one token per byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// How documents become rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// `pack` for a source whose first document is a sample (a prompt or messages), `concat` for every other.
    #[default]
    Auto,
    /// Documents are concatenated and cut into windows of the row's length.
    Concat,
    /// Whole documents, several to a row, with block-diagonal attention.
    Pack,
    /// Whole documents, one to a row, padded.
    Pad,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            source: Vec::new(),
            validation: Vec::new(),
            validation_fraction: 0.05,
            packing: Packing::Auto,
            overlong: Overlong::Truncate,
            chat_template: None,
            cache: "runs/cache".into(),
            shares_rows: false,
            opening: None,
        }
    }
}

fn one() -> f64 {
    1.0
}

/// Keys that older files do not have are written only where they say something, so that those files stay readable.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl DataConfig {
    /// Every mistake that can be seen without reading a file.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        let sources = self.source.iter().map(|source| ("data.source", &source.files));
        for (key, patterns) in
            [("data.train", &self.train), ("data.validation", &self.validation)].into_iter().chain(sources)
        {
            let empty = patterns.iter().any(|pattern| pattern.trim().is_empty());
            problems.need(
                !empty,
                key,
                format_args!("{patterns:?}"),
                "holds an empty name; each entry is a file or a pattern such as \"books/*.txt\"",
            );
        }
        self.source_problems(&mut problems);
        problems.need(
            (0.0..1.0).contains(&self.validation_fraction),
            "data.validation_fraction",
            number(self.validation_fraction),
            "must be at least 0 and below 1: it is the share of the tokens that is kept from training",
        );
        let reason = "must name a folder, such as \"runs/cache\"";
        problems.need(!self.cache.as_os_str().is_empty(), "data.cache", "\"\"", reason);
        problems.0
    }

    fn source_problems(&self, problems: &mut Problems) {
        let found = format!("{} sources", self.source.len());
        let both = !self.train.is_empty() && !self.source.is_empty();
        let reason = "stands in the place of data.train; move those files into a [[data.source]] of their own";
        problems.need(!both, "data.source", &found, reason);
        let reason = format_args!("at most {MOST_SOURCES} sources are possible; name several files in one");
        problems.need(self.source.len() <= MOST_SOURCES, "data.source", &found, reason);
        for source in &self.source {
            let reason = "names no file; list files or patterns such as \"books/*.txt\"";
            problems.need(!source.files.is_empty(), "data.source", "files = []", reason);
            let weight = source.weight;
            let reason = "must be a finite number above 0: its share of the rows beside the other weights";
            let sound = weight > 0.0 && weight.is_finite();
            problems.need(sound, "data.source", format_args!("weight = {}", number(weight)), reason);
        }
    }
}

impl TokenizerSettings {
    /// Every mistake that can be seen without reading the file, beside a model of `vocab` tokens.
    pub fn problems(&self, vocab: usize) -> Vec<Problem> {
        let mut problems = Problems::default();
        match &self.file {
            Some(file) => {
                let reason = "must name a tokenizer.json; for one token per byte leave the key out";
                problems.need(!file.as_os_str().is_empty(), "tokenizer.file", "\"\"", reason);
            }
            // A vocabulary of 0 is a mistake of the model's table, named there.
            None => {
                let reason =
                    "must be at least 256, since without tokenizer.file every byte is a token; set model.vocab=256";
                problems.need(vocab >= 256 || vocab == 0, "model.vocab", vocab, reason);
            }
        }
        problems.0
    }
}
