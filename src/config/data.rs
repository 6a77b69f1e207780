//! Where the text comes from.

use super::is_default;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[data]`: where the text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Files and globs to train on (see [`crate::data::InputKind`]); empty: `source`, or else the corpus bundled in the
    /// program.
    pub train: Vec<String>,
    /// Several sources with weights, in place of `train`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<Source>,
    /// Files and globs to validate on; empty: the tail of the training text, cut off before training.
    pub validation: Vec<String>,
    /// Share of the tokens cut off for validation when `validation` is empty.
    pub validation_fraction: f64,
    /// How documents become rows.
    #[serde(skip_serializing_if = "is_default")]
    pub samples: Samples,
    /// What becomes of a sample that is longer than a row.
    #[serde(skip_serializing_if = "is_default")]
    pub long: Long,
    /// The chat template of `messages`: a file, or the template itself; absent: the one that came with the tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Folder of prepared token shards.
    pub cache: PathBuf,
    /// Whether a row may hold several samples, each with attention of its own. No key: the files tell.
    #[serde(skip)]
    pub packed: bool,
}

/// One entry of `[[data.source]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Files and globs.
    pub files: Vec<String>,
    /// Its share of the rows, relative to the other sources' weights.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// How documents become rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Samples {
    /// `pack` for a source whose first line has a prompt or messages, `stream` for every other.
    #[default]
    Auto,
    /// All documents one after another, cut into windows of the row's length.
    Stream,
    /// Whole documents, several to a row, each with attention of its own.
    Pack,
    /// Whole documents, one to a row.
    Pad,
}

/// What becomes of a sample that is longer than a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Long {
    /// Its beginning is kept.
    #[default]
    Cut,
    /// It is left out.
    Skip,
    /// The run is refused.
    Error,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            source: Vec::new(),
            validation: Vec::new(),
            validation_fraction: 0.05,
            samples: Samples::Auto,
            long: Long::Cut,
            chat_template: None,
            cache: "runs/cache".into(),
            packed: false,
        }
    }
}
