//! What can be wrong with text, tokenizers and prepared tokens.

use std::io;
use std::path::PathBuf;

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
    #[error("{}: prepared tokens cannot be kept there: {source}; name another folder with data.cache", path.display())]
    Cache {
        /// The shard or its folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
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
    /// A file of a kind that is not read.
    #[error(
        "{}: is of none of the kinds that are read: .txt and .jsonl (either also compressed, .zst), .parquet, .bin of llm.c",
        path.display()
    )]
    UnknownKind {
        /// The file.
        path: PathBuf,
    },
    /// A Parquet file, and the program was built without its reader.
    #[error(
        "{}: this program was built without Parquet; build it with `cargo build --release --features parquet`, or \
         convert the file to .jsonl",
        path.display()
    )]
    NoParquet {
        /// The file.
        path: PathBuf,
    },
    /// A Zstandard file that is damaged or not whole.
    #[error("{}: cannot be decompressed: {reason}; check it with `zstd -t`", path.display())]
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
    /// Text beside samples in one source.
    #[error(
        "{}: has no samples, but {} has ({}); give them [[data.source]] tables of their own, or say for all of them \
         how they become rows with data.packing",
        path.display(), samples.display(), what
    )]
    Mixed {
        /// The file without.
        path: PathBuf,
        /// The file with them.
        samples: PathBuf,
        /// What it has.
        what: &'static str,
    },
    /// Tokens without bounds where samples are wanted.
    #[error("{}: holds tokens without samples, which data.packing = \"{packing}\" needs; leave that key out", path.display())]
    NoBounds {
        /// The file.
        path: PathBuf,
        /// The mode that was asked for.
        packing: &'static str,
    },
    /// `messages` without a template that says how they are written.
    #[error(
        "{}: has messages, and no chat template came with the tokenizer; name one with data.chat_template (a .jinja \
         file, or a tokenizer_config.json that has one)",
        path.display()
    )]
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
        "{}: sample {number} has {tokens} tokens, and a row holds {most} (train.sequence = {} and the next token); raise \
         train.sequence, or set data.overlong to \"truncate\" or \"skip\"",
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
    #[error(
        "{what}: none of {samples} samples can be used: {long} are longer than a row (train.sequence = {sequence}), {empty} \
         have nothing to learn; {advice}"
    )]
    NoSamples {
        /// "the training samples" or "the validation samples".
        what: &'static str,
        /// Samples there are.
        samples: usize,
        /// Too long ones that were left out.
        long: usize,
        /// Those without a target.
        empty: usize,
        /// Tokens of a row.
        sequence: usize,
        /// What to do.
        advice: &'static str,
    },
    /// A file listed both for training and for validation.
    #[error("{}: is listed in data.train and in data.validation; a loss on trained text says nothing, so remove one", path.display())]
    TrainedAndValidated {
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
        /// "line" or "row".
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
    /// A file that is no usable tokenizer.
    #[error("{name}: not a usable tokenizer.json: {reason}")]
    Tokenizer {
        /// The file, or "tokenizer" if it was embedded.
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
    #[error("{name}: token id {largest} does not fit model.vocab = {vocab} (ids up to {}); set model.vocab={} or use another tokenizer", vocab - 1, largest + 1)]
    Vocabulary {
        /// The file with the largest id.
        name: String,
        /// The largest id found.
        largest: u64,
        /// Rows of the model's embedding.
        vocab: u64,
    },
    /// A tokenizer with more tokens than the model.
    #[error("{name}: has token ids up to {largest}, but model.vocab = {vocab}; set model.vocab={}", largest + 1)]
    TokenizerTooLarge {
        /// The tokenizer's file.
        name: String,
        /// The largest id of its vocabulary, added tokens left out.
        largest: u64,
        /// Rows of the model's embedding.
        vocab: u64,
    },
    /// Text shorter than one window.
    #[error("{what}: {tokens} tokens, and one sequence needs {needed} (train.sequence = {} and the next token); {advice}", needed - 1)]
    TooShort {
        /// "the training text" or "the validation text".
        what: &'static str,
        /// Tokens there are.
        tokens: u64,
        /// Tokens of one window.
        needed: u64,
        /// What to do.
        advice: &'static str,
    },
}
