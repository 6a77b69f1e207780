//! A run's training and validation rows, ready and checked.

use super::batch::{Batches, Dataset, Overlong, Samples, Source, Windows};
use super::config::{DataConfig, Packing, TokenizerSettings};
use super::shard::{IGNORE, Progress, Shard, Tokens};
use super::source::{Corpus, Documents, Input, InputKind};
use super::tokenize::{SampleFormat, Tokenizer, TokenizerConfig};
use crate::error::DataError;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Everything a run reads.
#[derive(Clone)]
pub struct Prepared {
    /// How text became tokens.
    pub tokenizer: Tokenizer,
    /// What is trained on.
    pub train: Vec<Source>,
    /// What is validated on, never trained on; empty if `data.validation_fraction` is 0 and no files are named.
    pub validation: Vec<Source>,
    /// Bytes of text per validation token: nats per token divided by it (and by ln 2) are bits per byte. For a tail it is that of
    /// the text it was cut from, times what its tokens decode to beside those of the whole. Nothing where a file holds tokens
    /// whose text nobody knows.
    pub bytes_per_token: Option<f64>,
    /// Training and validation files that were named twice, in words.
    pub repeated: Vec<String>,
    /// Of the training tokens: a position in them means nothing in others.
    pub fingerprint: String,
}

/// How a source's documents become rows, once its files were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowMode {
    /// Windows of concatenated texts.
    Concat,
    /// Windows of concatenated samples, whose tokens are not all targets.
    ConcatSamples,
    /// Whole samples; several to a row if `share`.
    Samples { share: bool },
}

/// The files of a run.
pub struct Texts {
    /// What is trained on, with the weights.
    pub(super) train: Vec<(Corpus, f64)>,
    /// What is validated on, if files are named.
    validation: Option<Corpus>,
    packing: Packing,
}

impl Texts {
    /// Finds what the names and patterns of a configuration stand for.
    ///
    /// # Errors
    /// Names that stand for nothing, and files that cannot be read.
    pub fn find(config: &DataConfig) -> Result<Self, DataError> {
        let validation = match config.validation.as_slice() {
            [] => None,
            patterns => Some(Corpus::resolve(patterns)?),
        };
        Ok(Self { train: sources(config)?, validation, packing: config.packing })
    }

    /// Whether a row may hold several samples, with block-diagonal attention: decided by the first document of each file.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn share_rows(&self) -> Result<bool, DataError> {
        for corpus in self.train.iter().map(|(corpus, _)| corpus).chain(&self.validation) {
            if row_mode(corpus, self.packing)? == (RowMode::Samples { share: true }) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The training sources with their weights.
fn sources(config: &DataConfig) -> Result<Vec<(Corpus, f64)>, DataError> {
    match config.source.as_slice() {
        [] => Ok(vec![(Corpus::resolve(&config.train)?, 1.0)]),
        sources => sources.iter().map(|source| Ok((Corpus::resolve(&source.files)?, source.weight))).collect(),
    }
}

/// How the documents of `corpus` become rows.
fn row_mode(corpus: &Corpus, asked: Packing) -> Result<RowMode, DataError> {
    let unbound = corpus.inputs.iter().find(|input| input.kind == InputKind::LlmC);
    let samples = match asked {
        Packing::Pack | Packing::Pad => {
            let (share, packing) = if asked == Packing::Pack { (true, "pack") } else { (false, "pad") };
            return match unbound {
                Some(input) => Err(DataError::NoBounds { path: input.name.clone(), packing }),
                None => Ok(RowMode::Samples { share }),
            };
        }
        Packing::Concat => corpus.inputs.iter().map(first_sample).collect::<Result<Vec<_>, _>>()?,
        Packing::Auto => {
            let found = corpus.inputs.iter().map(first_sample).collect::<Result<Vec<_>, _>>()?;
            let with = found.iter().position(Option::is_some);
            let without = found.iter().position(Option::is_none);
            return match (with, without) {
                (None, _) => Ok(RowMode::Concat),
                (Some(_), None) => Ok(RowMode::Samples { share: true }),
                (Some(with), Some(without)) => Err(DataError::Mixed {
                    path: corpus.inputs[without].name.clone(),
                    samples: corpus.inputs[with].name.clone(),
                    what: found[with].unwrap_or_default(),
                }),
            };
        }
    };
    match (samples.iter().any(Option::is_some), unbound) {
        (false, _) => Ok(RowMode::Concat),
        (true, None) => Ok(RowMode::ConcatSamples),
        (true, Some(input)) => {
            let with = samples.iter().position(Option::is_some).unwrap_or(0);
            let (samples, what) = (corpus.inputs[with].name.clone(), samples[with].unwrap_or_default());
            Err(DataError::Mixed { path: input.name.clone(), samples, what })
        }
    }
}

/// What makes the first document of a file more than a text, if it is.
fn first_sample(input: &Input) -> Result<Option<&'static str>, DataError> {
    match input.kind {
        InputKind::Text | InputKind::LlmC => Ok(None),
        InputKind::JsonLines | InputKind::Parquet | InputKind::Csv => {
            let first = Documents::open(input)?.next_document()?;
            Ok(first.and_then(|document| document.is_sample()))
        }
    }
}

impl Prepared {
    /// Resolves, tokenizes (or finds in the cache) and splits the text of a configuration, and checks every token against
    /// a model of `vocab` tokens.
    ///
    /// # Errors
    /// Every mistake in files, tokenizer and vocabulary; [`Prepared::batches`] and [`Prepared::windows`] refuse texts
    /// that are too short.
    pub fn new(
        config: &DataConfig,
        tokenizer: &TokenizerSettings,
        vocab: usize,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, DataError> {
        let format = SampleFormat {
            tokenizer: Tokenizer::of(tokenizer.file.as_deref())?,
            config: TokenizerConfig::of(tokenizer.file.as_deref(), config.chat_template.as_deref())?,
        };
        format.tokenizer.check_vocabulary(vocab)?;
        let Texts { train, validation, .. } = Texts::find(config)?;
        // Names are checked before any text is read: preparing may take hours.
        if let Some(validation) = &validation {
            train.iter().try_for_each(|(train, _)| train.check_disjoint(validation))?;
        } else if config.validation_fraction > 0.0 {
            for (i, (source, _)) in train.iter().enumerate() {
                if let Some(path) = train[..i].iter().find_map(|(other, _)| source.shared_file(other)) {
                    return Err(DataError::HeldOutAndTrained { path });
                }
            }
        }
        let corpora = train.iter().map(|(corpus, _)| corpus).chain(&validation);
        let repeated = corpora.filter_map(Corpus::told_repeated).collect();
        let mut prepare =
            |corpus: &Corpus, weight| PreparedSource::new(corpus, weight, &format, config, vocab, progress);
        let train = train.iter().map(|(corpus, weight)| prepare(corpus, *weight)).collect::<Result<Vec<_>, _>>()?;
        let validation = validation.as_ref().map(|corpus| prepare(corpus, 1.0)).transpose()?;
        let (trained, held_out): (Vec<Source>, Vec<Source>) = match &validation {
            Some(validation) => {
                (train.iter().map(|source| source.source.clone()).collect(), vec![validation.source.clone()])
            }
            None => train.iter().map(|source| source.split_tail(config.validation_fraction)).unzip(),
        };
        let fingerprint = fingerprint(&train, &trained, config);
        let bytes_per_token = match &validation {
            Some(validation) => validation.shard.bytes_per_token(),
            None => of_tails(&train, &held_out, &format.tokenizer),
        };
        let validation = held_out.into_iter().filter(|source| !source.dataset.tokens().is_empty()).collect();
        Ok(Prepared { tokenizer: format.tokenizer, train: trained, validation, bytes_per_token, repeated, fingerprint })
    }

    /// The training rows of `sequence` tokens.
    ///
    /// # Errors
    /// See [`Batches::of`].
    pub fn batches(&self, sequence: usize, seed: u64) -> Result<Batches, DataError> {
        Batches::of(&self.train, sequence, seed)
    }

    /// The validation rows of `sequence` tokens, `most` of them unless that is 0, if anything was held out.
    ///
    /// # Errors
    /// See [`Windows::of`].
    pub fn windows(&self, sequence: usize, most: usize) -> Result<Option<Windows>, DataError> {
        match self.validation.as_slice() {
            [] => Ok(None),
            sources => Windows::of(sources, sequence, most).map(Some),
        }
    }
}

/// A source with the shard of its files.
struct PreparedSource {
    shard: Shard,
    source: Source,
}

impl PreparedSource {
    fn new(
        corpus: &Corpus,
        weight: f64,
        format: &SampleFormat,
        config: &DataConfig,
        vocab: usize,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, DataError> {
        let (shard, dataset) = prepare(corpus, format, config.packing, config.overlong, &config.cache, progress)?;
        shard.check_vocabulary(corpus, vocab)?;
        let name = match corpus.inputs.as_slice() {
            [one] => one.name.display().to_string(),
            [first, others @ ..] => format!("{} and {} more", first.name.display(), others.len()),
            [] => String::new(),
        };
        Ok(PreparedSource { shard, source: Source { name, weight, dataset } })
    }

    fn split_tail(&self, fraction: f64) -> (Source, Source) {
        let (dataset, tail) = self.source.dataset.split_tail(fraction);
        (Source { dataset, ..self.source.clone() }, Source { dataset: tail, ..self.source.clone() })
    }
}

/// The tokens of `corpus`, and what rows are made of.
///
/// # Errors
/// As [`Shard::prepare`]; files that do not go together.
pub fn prepare(
    corpus: &Corpus,
    format: &SampleFormat,
    packing: Packing,
    overlong: Overlong,
    cache: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(Shard, Dataset), DataError> {
    let mode = row_mode(corpus, packing)?;
    let shard = match mode {
        RowMode::Concat => Shard::prepare(corpus, format, cache, progress)?,
        _ => Shard::prepare_samples(corpus, format, cache, progress)?,
    };
    // Tokens that were kept by an earlier version, or that llm.c has none of.
    let mut held = corpus.inputs.iter().zip(&shard.inputs);
    if let Some((input, _)) = held.find(|(_, held)| held.range.is_empty()) {
        return Err(DataError::NoContent { path: input.name.clone(), found: "gives no tokens".into() });
    }
    let dataset = match mode {
        RowMode::Samples { share } => {
            let ends = shard.inputs.iter().map(|input| input.range.end);
            let files: Vec<_> = corpus.inputs.iter().map(|input| input.name.clone()).zip(ends).collect();
            Dataset::Samples(Samples::new(shard.tokens.clone(), share, overlong, &files))
        }
        _ => Dataset::Text(shard.tokens.clone()),
    };
    Ok((shard, dataset))
}

/// Bytes per token of what was cut off from the ends of sources; where nothing was, of the whole of them.
fn of_tails(sources: &[PreparedSource], tails: &[Source], tokenizer: &Tokenizer) -> Option<f64> {
    let tokens = |source: &Source| source.dataset.tokens().len() as f64;
    let of_tail = |(source, tail): (&PreparedSource, &Source)| {
        let whole = source.shard.bytes_per_token()?;
        let [in_tail, in_whole] = [tail, &source.source].map(|part| decoded_bytes(part.dataset.tokens(), tokenizer));
        Some((whole * in_tail? / in_whole?, tokens(tail)))
    };
    let found = sources.iter().zip(tails).map(|both| match tokens(both.1) == 0.0 {
        true => Some((both.0.shard.bytes_per_token()?, 0.0)),
        false => of_tail(both),
    });
    let found: Vec<(f64, f64)> = found.collect::<Option<_>>()?;
    let total: f64 = found.iter().map(|(_, tokens)| tokens).sum();
    match total == 0.0 {
        true => found.first().map(|(bytes, _)| *bytes),
        false => Some(found.iter().map(|(bytes, tokens)| bytes * tokens / total).sum()),
    }
}

/// Bytes that a target decodes to, from blocks that are spread over the tokens: a quarter of a million of them say enough. Nothing
/// without a target.
fn decoded_bytes(tokens: &Tokens, tokenizer: &Tokenizer) -> Option<f64> {
    const BLOCK: usize = 4096;
    const BLOCKS: usize = 64;
    if tokenizer.json().is_none() {
        return Some(1.0);
    }
    let blocks = tokens.len().div_ceil(BLOCK);
    let (mut bytes, mut targets) = (0, 0);
    for at in (0..blocks).step_by(blocks.div_ceil(BLOCKS).max(1)).map(|block| block * BLOCK) {
        let mut ids = vec![0; BLOCK.min(tokens.len() - at)];
        tokens.read_targets(at, &mut ids);
        ids.retain(|id| *id != IGNORE);
        targets += ids.len();
        bytes += tokenizer.decode(&ids).len();
    }
    (targets > 0 && bytes > 0).then(|| bytes as f64 / targets as f64)
}

/// What a position depends on.
fn fingerprint(prepared: &[PreparedSource], trained: &[Source], config: &DataConfig) -> String {
    let tokens: usize = trained.iter().map(|source| source.dataset.tokens().len()).sum();
    let mut key = prepared[0].shard.key;
    if let [Source { dataset: Dataset::Text(_), .. }] = trained {
        return format!("{key:032x}-{tokens}");
    }
    let mut hash = Xxh3::new();
    for (prepared, source) in prepared.iter().zip(trained) {
        let mode = match &source.dataset {
            Dataset::Text(_) => 0u8,
            Dataset::Samples(_) => 1 + config.packing as u8,
        };
        hash.update(&prepared.shard.key.to_le_bytes());
        hash.update(&(source.dataset.tokens().len() as u64).to_le_bytes());
        hash.update(&source.weight.to_bits().to_le_bytes());
        hash.update(&[mode, config.overlong as u8]);
    }
    key = hash.digest128();
    format!("{key:032x}-{tokens}")
}
