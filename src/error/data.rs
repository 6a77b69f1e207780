//! Errors of text, tokenizers and prepared tokens.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What text is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSet {
    /// To train on.
    Training,
    /// To measure a loss on.
    Validation,
}

impl fmt::Display for DataSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Training => "training",
            Self::Validation => "validation",
        })
    }
}

/// Why samples cannot be used: how many for each reason that there is.
fn unusable(sequence: usize, [long, cut, empty]: [usize; 3]) -> String {
    let reasons = [
        (long, format!("longer than a sequence of {sequence} tokens")),
        (cut, format!("longer than a sequence of {sequence} tokens, and what is learned in them lies behind its end")),
        (empty, "without anything that is learned".into()),
    ];
    let found = reasons.into_iter().filter(|(count, _)| *count > 0);
    found.map(|(count, reason)| format!("{count} are {reason}")).collect::<Vec<_>>().join("; ")
}

/// Text or a tokenizer that cannot be trained on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file cannot be opened or read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A prepared shard cannot be written or mapped.
    #[error("{}: prepared tokens cannot be kept there: {source}", path.display())]
    Cache {
        /// The shard or its folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Preparing was asked to stop.
    #[error("{}", match kept {
        Some(path) => format!("{}: holds what was prepared until the interruption", path.display()),
        None => "interrupted before any text was prepared".into(),
    })]
    Interrupted {
        /// What was prepared, from which preparing the same text goes on.
        kept: Option<PathBuf>,
    },
    /// A pattern that no file matches.
    #[error("{pattern}: matches no file; check the name, relative to the current folder{note}")]
    NoMatch {
        /// The file or pattern as configured.
        pattern: String,
        /// " (folders are not searched)" if only folders match, or nothing.
        note: &'static str,
    },
    /// A pattern that cannot be read.
    #[error("{pattern}: not a pattern: {reason}; write [[] for a bracket in a name")]
    BadPattern {
        /// The pattern as configured.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A folder where a file is wanted.
    #[error("{}: is a folder; name its files, such as {}", path.display(), path.join("*.txt").display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// A file without a single byte.
    #[error("{}: is empty; remove it from the list", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file in which nothing stands that could be read.
    #[error("{}: {found}; remove it from the list", path.display())]
    NoContent {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        found: String,
    },
    /// A file of a kind that is not read.
    #[error(
        "{}: unsupported file type; expected .txt, .jsonl, .json, .csv, .tsv (each also compressed, .zst), .parquet, or \
         llm.c's .bin",
        path.display()
    )]
    UnknownKind {
        /// The file.
        path: PathBuf,
    },
    /// A Parquet file, and the program was built without its reader.
    #[error("{}: this program was built without its reader of Parquet files", path.display())]
    NoParquet {
        /// The file.
        path: PathBuf,
    },
    /// A compressed file that is damaged or incomplete.
    #[error("{}: cannot be decompressed: {reason}", path.display())]
    Zstd {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A `.bin` file that is none of llm.c's.
    #[error("{}: {reason}", path.display())]
    LlmC {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Text and samples in one source.
    #[error("{}: has no samples, but {} in the same source has ({})", path.display(), samples.display(), what)]
    Mixed {
        /// The file without.
        path: PathBuf,
        /// The file with them.
        samples: PathBuf,
        /// What it has.
        what: &'static str,
    },
    /// Tokens without bounds where samples are wanted.
    #[error("{}: holds tokens without sample boundaries, which the mode \"{packing}\" needs", path.display())]
    NoBounds {
        /// The file.
        path: PathBuf,
        /// The mode that was asked for.
        packing: &'static str,
    },
    /// `messages` without a template that says how they are written.
    #[error("{}: has conversations, and no chat template came with the tokenizer", path.display())]
    NoTemplate {
        /// The file with messages.
        path: PathBuf,
    },
    /// A chat template that cannot be used.
    #[error("{name}: not a usable chat template: {reason}")]
    Template {
        /// Where it is from.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A sample that is longer than a row, where that was to be refused.
    #[error(
        "{}: sample {number} has {tokens} tokens, and a row holds {most} (a sequence of {} and the next token)",
        path.display(), most - 1
    )]
    OverlongSample {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        number: usize,
        /// Its tokens.
        tokens: usize,
        /// The tokens that would fit.
        most: usize,
    },
    /// Samples of which none can be used.
    #[error("the {set} samples: none of {samples} can be used: {}", unusable(*sequence, [*long, *cut, *empty]))]
    NoSamples {
        /// What they are for.
        set: DataSet,
        /// Samples there are.
        samples: usize,
        /// Too long ones that were left out.
        long: usize,
        /// Truncated ones whose targets all lay behind the end.
        cut: usize,
        /// Those without a target.
        empty: usize,
        /// Tokens of a row.
        sequence: usize,
    },
    /// A file listed both for training and for validation.
    #[error("{}: is listed both for training and for validation; a loss on trained text says nothing", path.display())]
    TrainedAndValidated {
        /// The file.
        path: PathBuf,
    },
    /// A file of two sources, whose end would be held out of one and trained on in the other.
    #[error("{}: is in two sources, and its end would be held out of one and trained on in the other", path.display())]
    HeldOutAndTrained {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that are not UTF-8.
    #[error("{}: byte {offset} is not UTF-8 text (0x{byte:02x}); convert the file, for example with iconv", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Counted from 0.
        offset: u64,
        /// The first byte that is no part of a character.
        byte: u8,
    },
    /// A line of a `.jsonl` file, or a row of a `.parquet` file, that is not a document.
    #[error("{}, {unit} {line}: {reason}", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// "line", "row" or "record".
        unit: &'static str,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that was written to while it was read.
    #[error("{}: changed while it was read; start again when it is complete", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file that is no usable model of SentencePiece.
    #[error("{}: not a usable SentencePiece model: it {reason}; a tokenizer.json is read too", path.display())]
    SentencePiece {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that is no usable tokenizer.
    #[error("{name}: not a usable tokenizer.json: {reason}")]
    Tokenizer {
        /// The file, or "tokenizer" if it was embedded.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A `tokenizer_config.json` that cannot be used.
    #[error("{name}: not a usable tokenizer configuration: {reason}")]
    TokenizerConfig {
        /// The file, or the model that carries it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Text that the tokenizer refuses.
    #[error("{name}: the tokenizer refuses this text: {reason}")]
    Encode {
        /// The file, or what the text is.
        name: String,
        /// The tokenizer's reason.
        reason: String,
    },
    /// Tokens that the model has no row for.
    #[error("{name}: token id {largest} is beyond the model's vocabulary of {vocab} (ids up to {})", vocab - 1)]
    Vocabulary {
        /// The file with the largest id.
        name: String,
        /// The largest id found.
        largest: u64,
        /// Rows of the model's embedding.
        vocab: u64,
    },
    /// A tokenizer with more tokens than the model.
    #[error("{name}: has token ids up to {largest}, and the model has a vocabulary of {vocab}")]
    TokenizerTooLarge {
        /// The tokenizer's file.
        name: String,
        /// The largest id of its vocabulary, added tokens left out.
        largest: u64,
        /// Rows of the model's embedding.
        vocab: u64,
    },
    /// Text shorter than one window.
    #[error("the {set} text: {tokens} tokens, and one sequence needs {needed} ({} and the next token)", needed - 1)]
    TooShort {
        /// What it is for.
        set: DataSet,
        /// Tokens there are.
        tokens: u64,
        /// Tokens of one window.
        needed: u64,
    },
}
